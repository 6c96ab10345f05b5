//! A provider that takes requests and answers none, over HTTP/1.1 in the clear or over TLS, where both sides agree on HTTP/2.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

pub(super) struct Silent {
    pub(super) url: String,
    /// Who is to trust it needs this, as `SSL_CERT_FILE`.
    pub(super) certificate: Option<PathBuf>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    asked: AtomicUsize,
    connections: AtomicUsize,
}

impl Silent {
    pub(super) async fn in_the_clear() -> Self {
        Self::listening(None, None).await
    }

    /// Its certificate is put into this folder.
    pub(super) async fn over_tls(folder: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
        let made = made.expect("a certificate");
        let file = folder.join("provider.pem");
        std::fs::write(&file, made.cert.pem()).expect("the folder is writable");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone()], key);
        let mut config = config.expect("they belong together");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::listening(Some(TlsAcceptor::from(Arc::new(config))), Some(file)).await
    }

    async fn listening(tls: Option<TlsAcceptor>, certificate: Option<PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let counts = Arc::new(Counts::default());
        let all = counts.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counts, tls) = (all.clone(), tls.clone());
                counts.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, counts).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, counts).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            url: format!("{scheme}://{address}/v1"),
            certificate,
            counts,
        }
    }

    /// Requests so far.
    pub(super) fn asked(&self) -> usize {
        self.counts.asked.load(Ordering::Relaxed)
    }

    pub(super) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, counts: Arc<Counts>) {
    let silence = service_fn(move |_| {
        counts.asked.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<Result<hyper::Response<String>, Infallible>>()
    });
    // Whoever waits gives up in the end.
    let _ = Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), silence)
        .await;
}
