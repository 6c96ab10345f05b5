//! A place outside: a server in this process that answers each request with the bytes a test scripts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::client::HANGS;

/// Answers one request with these bytes and hangs up; a path without any is not answered at all.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    seen: watch::Receiver<Vec<String>>,
    pages: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

/// An answer with this head after the status, and body.
pub(crate) fn page(head: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}")
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, seen) = watch::channel(Vec::new());
        let pages: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
        let script = pages.clone();
        tokio::spawn(async move {
            let sender = Arc::new(sender);
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, sender.clone(), script.clone()));
            }
        });
        Self {
            address,
            seen,
            pages,
        }
    }

    /// From now on, the path is answered with this. `PORT` becomes the origin's port.
    pub(crate) fn serve(&self, path: &str, answer: &str) -> &Self {
        let answer = answer.replace("PORT", &self.port().to_string());
        let mut pages = self.pages.lock().expect("nobody panics with it");
        pages.insert(path.to_owned(), answer.into_bytes());
        self
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// All requests as they came.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.borrow().clone()
    }

    /// Wait until so many requests came.
    pub(crate) async fn received(&self, count: usize) -> Vec<String> {
        let mut seen = self.seen.clone();
        let came = seen.wait_for(|seen| seen.len() >= count);
        let came = tokio::time::timeout(HANGS, came).await;
        let came = came.unwrap_or_else(|_| panic!("{count} requests did not come"));
        came.expect("the origin is there").clone()
    }
}

async fn answer(
    mut stream: TcpStream,
    seen: Arc<watch::Sender<Vec<String>>>,
    pages: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
    // What is served from the moment on that a test hears of it is for the next one.
    let page = pages
        .lock()
        .expect("nobody panics with it")
        .get(&path)
        .cloned();
    seen.send_modify(|seen| seen.push(text));
    match page {
        Some(page) => {
            // Whoever asked may have hung up.
            let _ = stream.write_all(&page).await;
        }
        // Until whoever asked hangs up.
        None => while stream.read_buf(&mut request).await.unwrap_or(0) > 0 {},
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let mut lengths = head
        .lines()
        .filter_map(|line| line.strip_prefix("content-length: "));
    let length = lengths
        .next()
        .map_or(0, |length| length.parse().expect("a number"));
    body.len() >= length
}

/// The value of a header of a request.
pub(crate) fn value<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = request.split("\r\n").take_while(|line| !line.is_empty());
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}
