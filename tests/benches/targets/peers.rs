//! Who Antiphon is measured beside. Each is started on a port of its own and killed at the end; who is not there is left out.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, request_as};
use rustix::process::{Pid, Signal, kill_process_group};

/// What has this program be the server of hyper alone.
pub(super) const HYPER: &str = "--serve-hyper";

pub(super) const DURABLE_STREAMS: &str = "durable-streams-server";
pub(super) const DURABLE_OBJECT: &str = "Durable Object (workerd)";
pub(super) const RESTATE: &str = "Restate";
pub(super) const WASMTIME: &str = "wasmtime serve";

/// Bytes, for who has a limit on what is appended in a run.
const LIMIT: &str = "10000000000";

/// Until a peer answers. Restate takes some seconds.
const START: Duration = Duration::from_secs(60);

pub(super) struct Peer {
    pub(super) name: &'static str,
    /// Works that it is compared at.
    pub(super) does: &'static [&'static str],
    pub(super) url: String,
    pub(super) method: &'static str,
    /// Of the n-th connection.
    pub(super) path: Box<dyn Fn(usize) -> String>,
    pub(super) content_type: &'static str,
    pub(super) body: &'static [u8],
    pub(super) status: u16,
    /// Killed with it.
    _processes: Vec<Running>,
}

struct Running(Child);

impl Drop for Running {
    /// With what it started: programs of npm's are scripts that start others.
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// All that there are; `scratch` is on the disk that is measured.
pub(super) fn start(folder: Option<&Path>, scratch: &Path) -> Vec<Peer> {
    let mut peers = vec![hyper()];
    let Some(folder) = folder else {
        return peers;
    };
    let folder = folder.canonicalize().expect("the folder of peers");
    let scratch = |name: &str| {
        let path = scratch.join(name);
        std::fs::create_dir_all(&path).expect("a scratch folder");
        path
    };
    let found = [
        durable_streams(&folder, &scratch("durable-streams")),
        durable_object(&folder, &scratch("workerd")),
        restate(&folder, &scratch("restate")),
        wasmtime(&folder),
    ];
    peers.extend(found.into_iter().flatten());
    peers
}

fn hyper() -> Peer {
    let port = free_port();
    let own = std::env::current_exe().expect("this program");
    let server = run(Command::new(own).args([HYPER, &port.to_string()]));
    let path = |_| "/".to_owned();
    let peer = Peer {
        name: "hyper alone",
        does: &["turn", "hello", "append"],
        url: at(port),
        method: "GET",
        path: Box::new(path),
        content_type: "text/plain",
        body: b"",
        status: 200,
        _processes: vec![server],
    };
    answers(peer).expect("it is this program")
}

/// `cargo install durable-streams-server --root FOLDER`
fn durable_streams(folder: &Path, data: &Path) -> Option<Peer> {
    let program = folder.join("bin/durable-streams-server");
    let port = free_port();
    let server = program.exists().then(|| {
        run(Command::new(program)
            .env("DS_SERVER__PORT", port.to_string())
            .env("DS_STORAGE__MODE", "file-durable")
            .env("DS_STORAGE__DATA_DIR", data)
            // It refuses appends to streams of more than 10 MB otherwise.
            .env("DS_LIMITS__MAX_MEMORY_BYTES", LIMIT)
            .env("DS_LIMITS__MAX_STREAM_BYTES", LIMIT))
    })?;
    let path = |n| format!("/v1/stream/s{n}");
    let mut peer = Peer {
        name: DURABLE_STREAMS,
        does: &["append"],
        url: at(port),
        method: "PUT",
        path: Box::new(path),
        content_type: "text/plain",
        body: b"",
        status: 201,
        _processes: vec![server],
    };
    peer = answers(peer)?;
    let mut connection = Connection::to(&peer.url);
    for n in 0..super::beside::CONNECTIONS_MAX {
        connection.exchange(&request_as("none", "PUT", &path(n), "text/plain", b""));
    }
    (peer.method, peer.body, peer.status) = ("POST", &[b'x'; 300], 204);
    Some(peer)
}

/// `npm install --prefix FOLDER workerd`
fn durable_object(folder: &Path, data: &Path) -> Option<Peer> {
    let program = folder.join("node_modules/.bin/workerd");
    let port = free_port();
    let config =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/targets/peers/durable_object.capnp");
    let server = program.exists().then(|| {
        run(Command::new(program)
            .arg("serve")
            .arg(config)
            .arg(format!("--directory-path=disk={}", data.display()))
            .arg(format!("--socket-addr=http=127.0.0.1:{port}")))
    })?;
    answers(Peer {
        name: DURABLE_OBJECT,
        does: &["turn"],
        url: at(port),
        method: "POST",
        path: Box::new(|n| format!("/s{n}")),
        content_type: "text/plain",
        body: b"go",
        status: 200,
        _processes: vec![server],
    })
}

/// `npm install --prefix FOLDER @restatedev/restate-server @restatedev/restate-sdk`
fn restate(folder: &Path, data: &Path) -> Option<Peer> {
    let program = folder.join("node_modules/.bin/restate-server");
    let [ingress, admin, node, service] = [(); 4].map(|()| free_port());
    // Beside its library, where node looks for it.
    let script = folder.join("restate.mjs");
    let source = include_bytes!("peers/restate.mjs");
    let mut processes = program.exists().then(|| {
        let mut file = std::fs::File::create(&script).expect("a script");
        file.write_all(source).expect("a script");
        let own = run(Command::new("node").arg(&script).arg(service.to_string()));
        let address = |port| format!("127.0.0.1:{port}");
        let server = run(Command::new(program)
            .arg("--base-dir")
            .arg(data)
            .env("RESTATE_INGRESS__BIND_ADDRESS", address(ingress))
            .env("RESTATE_ADMIN__BIND_ADDRESS", address(admin))
            .env("RESTATE_BIND_ADDRESS", address(node)));
        vec![own, server]
    })?;
    let deployment = format!(r#"{{"uri":"http://127.0.0.1:{service}"}}"#);
    let registered = answers(Peer {
        name: RESTATE,
        does: &[],
        url: at(admin),
        method: "POST",
        path: Box::new(|_| "/deployments".to_owned()),
        content_type: "application/json",
        body: deployment.leak().as_bytes(),
        status: 201,
        _processes: std::mem::take(&mut processes),
    })?;
    answers(Peer {
        does: &["turn"],
        url: at(ingress),
        path: Box::new(|n| format!("/turn/s{n}/run")),
        body: b"\"go\"",
        status: 200,
        ..registered
    })
}

/// `cargo install wasmtime-cli --root FOLDER`. It serves the guest `hello`, a fresh instance for each request.
fn wasmtime(folder: &Path) -> Option<Peer> {
    let program = folder.join("bin/wasmtime");
    let port = free_port();
    let server = program.exists().then(|| {
        let hello = components(&["hello"]).remove(0);
        run(Command::new(program)
            .args(["serve", "-Scli", "--addr", &format!("127.0.0.1:{port}")])
            .arg(hello))
    })?;
    answers(Peer {
        name: WASMTIME,
        does: &["hello"],
        url: at(port),
        method: "GET",
        path: Box::new(|_| "/".to_owned()),
        content_type: "text/plain",
        body: b"",
        status: 200,
        _processes: vec![server],
    })
}

fn at(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

fn run(command: &mut Command) -> Running {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.process_group(0).spawn().expect("a peer starts"))
}

/// The peer once it answers as it should; none, and why, if it does not come to that.
fn answers(peer: Peer) -> Option<Peer> {
    let (start, mut last) = (Instant::now(), String::new());
    let method = reqwest::Method::from_bytes(peer.method.as_bytes()).expect("a method");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let client = reqwest::Client::new();
    while start.elapsed() < START {
        let request = client
            .request(method.clone(), format!("{}{}", peer.url, (peer.path)(0)))
            .header("content-type", peer.content_type)
            .timeout(Duration::from_secs(5))
            .body(peer.body);
        match runtime.block_on(async { request.send().await }) {
            Ok(answer) if answer.status() == peer.status => return Some(peer),
            Ok(answer) => last = answer.status().to_string(),
            Err(error) => last = error.to_string(),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{} is left out: {last}", peer.name);
    None
}

/// Answers every request with two bytes.
pub(super) fn serve_hyper() {
    let port = std::env::args().next_back().expect("a port");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"))
            .await
            .expect("the port is free");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("no delay");
            let stream = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(async move {
                let answer = |_| async {
                    let body = http_body_util::Full::new(bytes::Bytes::from_static(b"ok"));
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(body))
                };
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(stream, hyper::service::service_fn(answer));
                // The load generator has closed it.
                let _ = served.await;
            });
        }
    });
}
