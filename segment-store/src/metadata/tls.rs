//! TLS for the server's connections, with the feature `tls`. Without it, it is refused when the server starts.

use std::io;
use std::path::PathBuf;
use tokio::net::TcpStream;

/// PEM files with which a server shows who it is.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Its certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
}

#[cfg(feature = "tls")]
pub(super) use with::*;
#[cfg(not(feature = "tls"))]
pub(super) use without::*;

#[cfg(feature = "tls")]
mod with {
    use super::{TcpStream, TlsFiles, io};
    use std::sync::Arc;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::{TlsAcceptor, server::TlsStream};

    pub(in super::super) type Acceptor = TlsAcceptor;
    pub(in super::super) type Stream = TlsStream<TcpStream>;

    /// Reads the files.
    pub(in super::super) fn acceptor(files: &TlsFiles) -> Result<Acceptor, String> {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        let chain: Vec<_> = CertificateDer::pem_file_iter(&files.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| format!("the certificate {certificate} cannot be read: {error}"))?;
        if chain.is_empty() {
            return Err(format!("{certificate} is no PEM file with 'BEGIN CERTIFICATE'"));
        }
        let secret = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| format!("the key {key} cannot be read: {error}"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(|error| format!("the certificate {certificate} with the key {key}: {error}"))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    pub(in super::super) async fn accept(acceptor: &Acceptor, stream: TcpStream) -> io::Result<Stream> {
        acceptor.accept(stream).await
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use super::{TcpStream, TlsFiles, io};

    /// There is none.
    #[derive(Clone)]
    pub(in super::super) enum Acceptor {}
    pub(in super::super) type Stream = TcpStream;

    pub(in super::super) fn acceptor(_: &TlsFiles) -> Result<Acceptor, String> {
        Err("this build has no TLS: build it with `--features tls`".into())
    }

    pub(in super::super) async fn accept(acceptor: &Acceptor, _: TcpStream) -> io::Result<Stream> {
        match *acceptor {}
    }
}
