//! Connections that obey the rules of addresses.
//!
//! Names are resolved inside the connector, and what they resolve to is filtered there, so that the
//! address that was checked is the one that is dialled; URLs with an address are checked before.
//! A resolver is not told the port, so there is a client for each port that a grant names.
//!
//! Invariant: no proxy, no redirect, no retry of the library's own. A connection serves one
//! request: it is shared by no two tenants, and is never found dead after a request was written to it.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::address::Grants;

/// Whoever takes longer to accept a connection is down.
const CONNECT: Duration = Duration::from_secs(10);

/// The address may not be dialled. It names no address: those of the host's network are not the
/// tenant's to know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not on the public Internet, and the operator grants no such address")]
pub struct AddressRefused(pub String);

impl AddressRefused {
    /// The refusal that made a request fail, if one did.
    pub fn of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(refused) = error.downcast_ref() {
                return Some(refused);
            }
            next = error.source();
        }
        None
    }
}

/// Addresses of names.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<BTreeMap<String, Vec<IpAddr>>>);

impl Names {
    /// Those that are given, and the system's resolver for all others.
    pub fn new(given: BTreeMap<String, Vec<IpAddr>>) -> Self {
        let lower = given
            .into_iter()
            .map(|(name, addresses)| (name.to_ascii_lowercase(), addresses));
        Self(Arc::new(lower.collect()))
    }

    async fn of(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if let Some(given) = self.0.get(&name.to_ascii_lowercase()) {
            return Ok(given.clone());
        }
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// Resolves names for connections to one port, or to any port that no grant names.
struct Checked {
    names: Names,
    grants: Grants,
    port: u16,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, grants, port) = (self.names.clone(), self.grants.clone(), self.port);
        Box::pin(async move {
            let name = name.as_str();
            let mut addresses = names.of(name).await?;
            if addresses.is_empty() {
                return Err(format!("{name} has no address").into());
            }
            addresses.retain(|address| grants.may_dial(*address, port));
            if addresses.is_empty() {
                return Err(AddressRefused(name.to_owned()).into());
            }
            // The connector puts the URL's port in place of 0.
            let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

#[derive(Debug)]
pub struct Dialler {
    grants: Grants,
    /// By port; the one of port 0 is for all that no grant names.
    clients: BTreeMap<u16, reqwest::Client>,
}

impl Dialler {
    pub fn new(grants: Grants, names: &Names) -> Result<Self, reqwest::Error> {
        let ports = grants.ports().chain([0]);
        let client = |port| Ok((port, client(&grants, names, port)?));
        let clients = ports.map(client).collect::<Result<_, reqwest::Error>>()?;
        Ok(Self { grants, clients })
    }

    /// The client for requests to this URL: none of its connections goes to an address that is
    /// neither public nor granted for the URL's port. Follow no redirect with it, but ask again.
    pub fn client(&self, url: &Url) -> Result<&reqwest::Client, AddressRefused> {
        let port = url.port_or_known_default().unwrap_or(0);
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        if literal.is_some_and(|address| !self.grants.may_dial(address, port)) {
            return Err(AddressRefused(
                url.host_str().unwrap_or_default().to_owned(),
            ));
        }
        let client = self.clients.get(&port).or_else(|| self.clients.get(&0));
        Ok(client.expect("there is one for port 0"))
    }
}

fn client(grants: &Grants, names: &Names, port: u16) -> Result<reqwest::Client, reqwest::Error> {
    let resolver = Checked {
        names: names.clone(),
        grants: grants.clone(),
        port,
    };
    builder()
        .dns_resolver(Arc::new(resolver))
        .pool_max_idle_per_host(0)
        .build()
}

/// What holds for all requests that leave the host: one for each that is made, to nowhere but where it says.
pub(crate) fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("antiphon/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
}
