//! TLS: the server's certificate, and agreeing with clients on a connection.
//!
//! HTTP/1.1 or 2 is agreed on with it (ALPN). The certificate is read at the start, where anything
//! wrong with it is an error, and again when somebody says so; then anything wrong with the new
//! one leaves the old one in place.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error as RustlsError, InconsistentKeys, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Why there is no TLS. Names the setting and the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("`{setting}`: {}: {error}", path.display())]
    File {
        setting: &'static str,
        path: PathBuf,
        error: PemError,
    },
    #[error("`http.tls.certificate`: {}: there is no certificate in it", .0.display())]
    Empty(PathBuf),
    #[error("`http.tls.key`: {}: it is not the key of the certificate", .0.display())]
    Mismatch(PathBuf),
    #[error("`http.tls`: {} and its key: {error}", certificate.display())]
    Refused {
        certificate: PathBuf,
        error: RustlsError,
    },
}

pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    acceptor: RwLock<TlsAcceptor>,
}

impl Tls {
    /// PEM files: the certificate with those that lead to its root, and its key. Blocks.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            acceptor: RwLock::new(acceptor(certificate, key)?),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Read both files again, for connections from now on. Blocks.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = acceptor(&self.certificate, &self.key)?;
        *self
            .acceptor
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Agree with a client; true if it will speak HTTP/2.
    pub(super) async fn accept<S>(&self, stream: S) -> std::io::Result<(TlsStream<S>, bool)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = self
            .acceptor
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let stream = acceptor.accept(stream).await?;
        let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((stream, is_two))
    }
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let failed = |setting, path: &Path| {
        let path = path.to_owned();
        move |error| TlsError::File {
            setting,
            path,
            error,
        }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(failed("http.tls.certificate", certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(certificate.to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(failed("http.tls.key", key))?;
    let refused = |error| TlsError::Refused {
        certificate: certificate.to_owned(),
        error,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| match error {
            RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch(key.to_owned())
            }
            other => refused(other),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
