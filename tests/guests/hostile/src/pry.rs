//! Reaching for what is not its own, and pretending to be the host.

use std::net::{TcpStream, ToSocketAddrs as _, UdpSocket};

use antiphon_sdk::http::{self, HttpError, Method, Request};
use antiphon_sdk::mailbox::{self, Body};
use antiphon_sdk::{AgentError, kernel, log, reply, transcript};

use crate::tell;

/// What would begin an event, a header, a terminal's command or another line.
pub(crate) const CONTROL: &str = "\r\n\r\nid: 99\r\nevent: turn-ended\r\ndata: {}\r\n\r\n\0\u{1b}[2J\u{7f}\u{85}\u{2028}\u{feff}";

pub(crate) fn guess() -> Result<(), AgentError> {
    for name in [
        "plan",
        "../good/plan",
        "good/plan",
        "default/good/plan",
        "good:plan",
        "session/good/slot/plan",
        "%2e%2e%2fgood%2fplan",
        "plan\0",
        "",
        ".",
        "..",
        "*",
    ] {
        let read = kernel::read(name).map(|slot| slot.content);
        tell(&format!("slot {name:?}: {read:?}"))?;
    }
    for id in ["good:2", "good:1", "default/good:2", ":2", "0", "good"] {
        tell(&format!(
            "message {id:?}: {:?}",
            mailbox::read(id).is_some()
        ))?;
    }
    for to in [
        "good/echo",
        "default/echo",
        "other:echo",
        "stranger",
        "*",
        "",
    ] {
        let sent = mailbox::send(to, &Body::Text("hello".into()));
        tell(&format!("send {to:?}: {}", sent.is_ok()))?;
    }
    tell(&format!(
        "found: {}",
        mailbox::search("treasure", None).headers.len()
    ))?;
    let seen = transcript::window(1_000, None).items;
    let stolen = seen.iter().any(|item| item.text.contains("treasure"));
    tell(&format!("transcript: {stolen}"))
}

pub(crate) fn reach(port: u16) -> Result<(), AgentError> {
    for path in [
        "/etc/passwd",
        "/proc/self/environ",
        ".",
        "/",
        "antiphon-data/default.key",
    ] {
        tell(&format!("read {path}: {}", std::fs::read(path).is_ok()))?;
        tell(&format!("list {path}: {}", std::fs::read_dir(path).is_ok()))?;
    }
    tell(&format!("write: {}", std::fs::write("/tmp/x", "x").is_ok()))?;
    tell(&format!("variables: {}", std::env::vars().count()))?;
    tell(&format!("arguments: {}", std::env::args().count()))?;
    let hosts = ["127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1"];
    for address in hosts.map(|host| format!("{host}:{port}")) {
        tell(&format!(
            "connect {address}: {}",
            TcpStream::connect(address.as_str()).is_ok()
        ))?;
    }
    tell(&format!("udp: {}", UdpSocket::bind("0.0.0.0:0").is_ok()))?;
    tell(&format!(
        "names: {}",
        ("localhost", port).to_socket_addrs().is_ok()
    ))?;
    tell(&format!(
        "thread: {}",
        std::thread::Builder::new().spawn(|| {}).is_ok()
    ))?;
    tell(&format!(
        "process: {}",
        std::process::Command::new("sh").spawn().is_ok()
    ))
}

/// The word of what came of a request.
fn word(sent: Result<http::Response, HttpError>) -> String {
    match sent {
        Ok(answer) => format!("{} {}", answer.status, answer.text()),
        Err(HttpError::Refused(_)) => "refused".to_owned(),
        Err(error) => http::in_words(&error),
    }
}

pub(crate) fn fetch(port: u16) -> Result<(), AgentError> {
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0177.0.0.1:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[fd00:ec2::254]/latest/meta-data/".to_owned(),
        "http://metadata.google.internal/".to_owned(),
        format!("http://elsewhere.example:{port}/"),
        format!("http://good.example@127.0.0.1:{port}/"),
        "file:///etc/passwd".to_owned(),
        "unix:/var/run/docker.sock".to_owned(),
        format!("gopher://127.0.0.1:{port}/"),
    ] {
        tell(&format!("{url}: {}", word(http::get(url.clone()))))?;
    }
    Ok(())
}

pub(crate) fn forge(port: u16) -> Result<(), AgentError> {
    let url = format!("http://good.example:{port}/");
    for (name, value) in [
        ("authorization", "Bearer guessed"),
        ("Authorization", "Bearer guessed"),
        ("proxy-authorization", "Basic eA=="),
        ("x-tangle-forwarded-authorization", "Bearer guessed"),
        ("X-Tangle-Forwarded-Depth", "0"),
        ("x-tangle-tenant", "other"),
        ("host", "169.254.169.254"),
        ("content-length", "0"),
        ("transfer-encoding", "chunked"),
        ("connection", "upgrade"),
        ("x\r\nauthorization", "Bearer guessed"),
        ("x", "y\r\nauthorization: Bearer guessed"),
        ("x y", "z"),
        ("", "z"),
    ] {
        let request = Request::new(Method::Get, url.clone()).header(name, value);
        tell(&format!("{name:?}: {}", word(http::fetch(&request))))?;
    }
    for method in ["GET / HTTP/1.1\r\nx: y\r\n\r\nGET", "CONNECT", "TRACE", ""] {
        let request = Request::new(Method::Other(method.to_owned()), url.clone());
        tell(&format!("{method:?}: {}", word(http::fetch(&request))))?;
    }
    Ok(())
}

pub(crate) fn inject(port: u16) -> Result<(), AgentError> {
    reply::say(CONTROL)?;
    let name = format!("plan{CONTROL}");
    tell(&format!("lock: {}", kernel::lock(&name).is_ok()))?;
    tell(&format!("read: {}", kernel::read(&name).is_some()))?;
    tell(&format!(
        "send: {}",
        mailbox::send(&name, &Body::Text(CONTROL.into())).is_ok()
    ))?;
    tell(&format!("leave: {}", mailbox::leave(&name)))?;
    let url = format!("http://good.example:{port}/{CONTROL}");
    tell(&format!("fetch: {}", word(http::get(url))))?;
    log::event(log::Level::Error, CONTROL, &[(CONTROL, CONTROL)]);
    let _ = std::io::Write::write_all(&mut std::io::stdout(), CONTROL.as_bytes());
    Err(AgentError::Other(CONTROL.to_owned()))
}
