//! A server in this process: bound, started, and known to answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use antiphon::ServeError;
use antiphon::config::Config;
use antiphon::secret::Secret;
use antiphon::shutdown::Shutdown;
use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::client::Client;
use super::fault::{Hint, hinted};
use super::place::{KEY_FILE, Place};

/// Opening a large store takes a while; one that takes longer is stuck.
const START_MAX: Duration = Duration::from_secs(120);

pub(super) struct Running {
    pub(super) url: String,
    pub(super) data: PathBuf,
    pub(super) shutdown: Shutdown,
    task: JoinHandle<Result<(), ServeError>>,
}

/// Bind, start, and wait until the server answers.
pub(super) async fn start(config: Config) -> anyhow::Result<Running> {
    let listener = bind(config.listen).await?;
    start_on(listener, config).await
}

pub(super) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
        .hint("another server may be running there; --listen 127.0.0.1:0 picks a free port")
}

/// The address everybody expects, or any when it is taken.
pub(super) async fn bind_usual_or_any() -> anyhow::Result<TcpListener> {
    match TcpListener::bind(Config::default().listen).await {
        Ok(listener) => Ok(listener),
        Err(_) => bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await,
    }
}

/// What a server holds open beside connections: the store, components, calls to models.
const DESCRIPTORS_BESIDE: u64 = 256;

/// Systems allow a process few descriptors, and more if it asks: every connection takes one.
fn raise_descriptors(connections_max: u64) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "no more descriptors were allowed");
    }
    let needed = connections_max + DESCRIPTORS_BESIDE;
    if let Some(allowed) = getrlimit(Resource::Nofile)
        .current
        .filter(|it| *it < needed)
    {
        tracing::warn!(
            allowed,
            needed,
            "fewer descriptors are allowed (`ulimit -n`) than connections_max may take"
        );
    }
}

pub(super) async fn start_on(listener: TcpListener, mut config: Config) -> anyhow::Result<Running> {
    raise_descriptors(config.limits.connections_max);
    config.compiler = Some(this_program()?);
    let url = base_url(listener.local_addr()?, config.http.tls.is_some());
    let data = config.data.clone();
    let shutdown = Shutdown::new();
    let mut task = tokio::spawn(antiphon::serve(listener, config, shutdown.clone()));

    // One question, that waits in the listener's queue until the server takes it.
    let client = Client::new(Place {
        url: url.clone(),
        key: Secret::new(""),
    })?;
    let answers = async {
        while !client.is_alive().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        ended = &mut task => {
            ended.context("the server stopped at once")??;
            anyhow::bail!("the server stopped at once");
        }
        () = answers => {}
        () = tokio::time::sleep(START_MAX) => {
            task.abort();
            anyhow::bail!("the server does not answer after {} s", START_MAX.as_secs());
        }
    }
    Ok(Running {
        url,
        data,
        shutdown,
        task,
    })
}

/// What runs this very code, also after somebody put a newer version in its file's place.
fn this_program() -> anyhow::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() {
        return Ok(running);
    }
    std::env::current_exe().context("this program cannot find its own file")
}

impl Running {
    /// A client with the key of the tenant `default`.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let file = self.data.join(KEY_FILE);
        let key = std::fs::read_to_string(&file).map_err(|error| {
            hinted(
                format!(
                    "cannot read the server's key in {}: {error}",
                    file.display()
                ),
                "a server with tenants of its own makes no default key; say --key",
            )
        })?;
        Client::new(Place {
            url: self.url.clone(),
            key: Secret::new(key.trim()),
        })
    }

    /// Wait until the server ends by itself.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        (&mut self.task).await.context("the server broke down")??;
        Ok(())
    }

    /// Ask it to stop and wait until it has.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.stop();
        self.ended().await
    }
}

/// Where clients on this machine find a server that listens on an address.
fn base_url(address: SocketAddr, is_secure: bool) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = if is_secure { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(ip, address.port()))
}

/// Wait until somebody wants this process to stop: Ctrl-C, or a terminating signal.
pub(super) async fn asked_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_every_interface_is_reached_on_loopback() {
        for (listens, url) in [
            ("127.0.0.1:7171", "http://127.0.0.1:7171"),
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:80", "http://[::1]:80"),
        ] {
            assert_eq!(base_url(listens.parse().unwrap(), false), url);
            let secure = url.replace("http:", "https:");
            assert_eq!(base_url(listens.parse().unwrap(), true), secure);
        }
    }
}
