//! Webhooks: where requests may go that the host makes by itself, because a tenant asked it to.
//!
//! Invariant: the URL names a place that the host may dial; its address is checked again whenever it is dialled.

use url::{Host, Url};

use super::Egress;
use super::dial::AddressRefused;

/// Of a URL: longer ones are refused by servers.
const URL_BYTES_MAX: usize = 2_000;

/// Whether requests may be sent to a webhook, as far as its URL tells: over TLS, or to this machine where the operator
/// lets the host dial that. The text of an error is for whoever wrote the URL.
pub fn check(egress: &Egress, url: &str) -> Result<Url, String> {
    if url.len() > URL_BYTES_MAX {
        return Err(format!("a URL of {URL_BYTES_MAX} bytes is the longest"));
    }
    let url = Url::parse(url).map_err(|error| format!("the webhook's URL: {error}"))?;
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => {}
        "http" if is_here => {}
        _ => return Err("the webhook's URL must begin with `https://`".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the webhook's URL holds credentials".to_owned());
    }
    egress.client(&url).map_err(|error| error.to_string())?;
    if is_here && matches!(url.host(), Some(Host::Domain(_))) {
        // The name is looked up when it is dialled; what it stands for is known.
        let mut address = url.clone();
        let _ = address.set_ip_host(std::net::Ipv4Addr::LOCALHOST.into());
        egress.client(&address).map_err(|error| error.to_string())?;
    }
    Ok(url)
}

/// Send a webhook something. The text of an error says why it did not get it, without its URL, which may hold what its
/// owner wants nobody to see.
pub async fn post(
    egress: &Egress,
    url: &str,
    headers: &[(&'static str, String)],
    body: String,
) -> Result<reqwest::Response, String> {
    let url = check(egress, url)?;
    let client = egress.client(&url).map_err(|error| error.to_string())?;
    let mut request = client.post(url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let answer = request.body(body).send().await.map_err(failure)?;
    match answer.status() {
        status if status.is_success() => Ok(answer),
        status => Err(format!("it answered {status}")),
    }
}

/// Why something broke off, in the words of whatever broke.
pub fn failure(error: reqwest::Error) -> String {
    if let Some(refused) = AddressRefused::of(&error) {
        return refused.to_string();
    }
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Which part of its pause a webhook is told sooner or later, from -1 to 1.
pub fn jitter() -> f64 {
    let mut random = [0; 2];
    // Without randomness those who failed together come back together, which is slower and not wrong.
    let _ = getrandom::fill(&mut random);
    f64::from(i16::from_ne_bytes(random)) / f64::from(i16::MAX)
}
