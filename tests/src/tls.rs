//! TLS: what is agreed on, and certificates that are wrong.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use antiphon::config::Tls;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::client::HANGS;
use crate::process;
use crate::server::{Server, trusting};

/// A certificate for loopback, and its key, in files.
fn certificate(folder: &Path, name: &str) -> Tls {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let file = |extension: &str, text: String| -> PathBuf {
        let path = folder.join(format!("{name}.{extension}"));
        fs::write(&path, text).expect("the folder is writable");
        path
    };
    Tls {
        certificate: file("pem", made.cert.pem()),
        key: file("key", made.signing_key.serialize_pem()),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_certificate_the_server_speaks_tls_and_nothing_else() {
    let folder = folder();
    let tls = certificate(folder.path(), "a");
    let server = Server::with(|config| config.http.tls = Some(tls.clone())).await;
    assert!(server.url.starts_with("https://"));
    let written = fs::read_to_string(server.data().join("url")).expect("the address");
    assert_eq!(written, server.url);
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let mut events = server.follow("s").await;
    assert_eq!(server.reply("echo", "s", json!("hello")).await, "hello");
    events.turn("echo").await;
    let answer = server.call("GET /v1/agents").await;
    let hsts = answer.header("strict-transport-security");
    assert_eq!(hsts, Some("max-age=31536000"));

    // Who does not know the certificate does not go on, and plain HTTP is no TLS.
    let stranger = certificate(folder.path(), "b");
    let other = trusting(&stranger.certificate);
    let url = format!("{}/healthz", server.url);
    other.get(&url).send().await.expect_err("it is not trusted");
    let plain = url.replace("https:", "http:");
    server.client.get(plain).send().await.expect_err("no HTTP");
    server.stop().await;

    let server = Server::start().await;
    let answer = server.call("GET /v1/agents").await;
    assert_eq!(answer.header("strict-transport-security"), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_and_2_are_agreed_on() {
    let folder = folder();
    let tls = certificate(folder.path(), "a");
    let server = Server::with(|config| config.http.tls = Some(tls.clone())).await;
    let url = format!("{}/healthz", server.url);
    let pem = fs::read(&tls.certificate).expect("the certificate");
    let builder = || {
        let certificate = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        reqwest::Client::builder().tls_certs_only([certificate])
    };
    for (client, version) in [
        (builder(), reqwest::Version::HTTP_2),
        (builder().http1_only(), reqwest::Version::HTTP_11),
    ] {
        let client = client.build().expect("a client");
        let answer = client.get(&url).send().await.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_cannot_be_used_stops_the_start() {
    let folder = folder();
    let (a, b) = (
        certificate(folder.path(), "a"),
        certificate(folder.path(), "b"),
    );
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("the folder is writable");
        path
    };
    let empty = file("empty.pem", "");
    let noise = file(
        "noise.pem",
        "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
    );
    let forged = file(
        "forged.pem",
        "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n",
    );
    let nowhere = folder.path().join("nowhere.pem");
    for (certificate, key, words) in [
        (&nowhere, &a.key, "`http.tls.certificate`: "),
        (&nowhere, &a.key, "nowhere.pem"),
        (&a.certificate, &nowhere, "`http.tls.key`: "),
        (&empty, &a.key, "there is no certificate in it"),
        (&noise, &a.key, "`http.tls.certificate`: "),
        (&forged, &a.key, "`http.tls`"),
        (&a.certificate, &empty, "`http.tls.key`: "),
        (&a.certificate, &a.certificate, "`http.tls.key`: "),
        (
            &a.certificate,
            &b.key,
            "it is not the key of the certificate",
        ),
    ] {
        let tls = Tls {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        let error = Server::refused(|config| config.http.tls = Some(tls)).await;
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

/// The real binary: a signal is a matter of the whole process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_taken_on_a_hangup_and_a_wrong_one_is_not() {
    let folder = folder();
    let (a, b) = (
        certificate(folder.path(), "a"),
        certificate(folder.path(), "b"),
    );
    let (old, new) = (trusting(&a.certificate), trusting(&b.certificate));
    let path = |path: &Path| path.to_str().expect("a path").to_owned();
    let (certificate, key) = (path(&a.certificate), path(&a.key));
    let settings = [
        ("ANTIPHON_HTTP__TLS__CERTIFICATE", certificate.as_str()),
        ("ANTIPHON_HTTP__TLS__KEY", key.as_str()),
        ("ANTIPHON_LOG", "info"),
    ];
    let data = folder.path().join("data");
    let mut child = process::spawn(&data, "127.0.0.1:0", &settings);
    let lines = |piped: Box<dyn Read + Send>| BufReader::new(piped).lines();
    let mut said = lines(Box::new(child.stdout.take().expect("it is piped")));
    let mut logged = lines(Box::new(child.stderr.take().expect("it is piped")));
    let mut heard = |words: &str| {
        let found = logged.find(|line| line.as_ref().is_ok_and(|line| line.contains(words)));
        assert!(found.is_some(), "{words}");
    };
    let first = said.next().expect("a line").expect("a text");
    let url = first.trim_start_matches("listening on ").to_owned() + "/healthz";
    assert!(url.starts_with("https://"), "{url}");
    let id = child.id().to_string();
    let hangup = || {
        let mut kill = std::process::Command::new("kill");
        let sent = kill.args(["-HUP", &id]).status();
        assert!(sent.expect("kill runs").success());
    };
    old.get(&url).send().await.expect("an answer");

    fs::copy(&b.certificate, &a.certificate).expect("a file");
    hangup();
    heard("the certificate stays as it was");
    old.get(&url).send().await.expect("the old pair is there");

    fs::copy(&b.key, &a.key).expect("a file");
    hangup();
    heard("the certificate was read again");
    new.get(&url).send().await.expect("the new pair is there");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_are_bounded_in_time_and_number() {
    let folder = folder();
    let tls = certificate(folder.path(), "a");
    let server = Server::with(|config| {
        config.http.tls = Some(tls.clone());
        config.limits.handshake_ms_max = 2_000;
        config.limits.handshakes_max = 1;
    })
    .await;
    // Before the handshake nothing is asked: the connection is taken, and then kept or closed.
    let mut first = TcpStream::connect(server.address())
        .await
        .expect("it listens");
    let mut second = TcpStream::connect(server.address())
        .await
        .expect("it listens");
    let (mut byte, mut other) = ([0], [0]);
    let over = async {
        tokio::select! {
            _ = first.read(&mut byte) => panic!("the first is kept until its time is up"),
            read = second.read(&mut other) => assert_eq!(read.unwrap_or_default(), 0),
        }
        assert_eq!(first.read(&mut [0]).await.unwrap_or_default(), 0);
    };
    tokio::time::timeout(HANGS, over).await.expect("both end");
    // The end of a connection is seen before it is counted.
    for limit in ["handshake_ms_max", "handshakes_max"] {
        let name = format!("{{limit=\"{limit}\"}}");
        while !server.limits_hit().await.contains(&name) {
            tokio::task::yield_now().await;
        }
    }
    server.stop().await;
}
