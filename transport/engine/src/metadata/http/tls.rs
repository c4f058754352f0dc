//! Which servers are believed: those whose certificate one of the authorities vouches for, and no others.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// Trusts the authorities in the PEM file `ca`, or else the system's.
pub(super) fn config(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let unusable = |why: &dyn std::fmt::Display| format!("ca {} cannot be used: {why}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))? {
                let certificate = certificate.map_err(|error| unusable(&error))?;
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
            if roots.is_empty() {
                return Err(unusable(&"it is no PEM file with 'BEGIN CERTIFICATE'"));
            }
        }
        None => {
            // Some of a system's authorities may be unreadable or odd; the others count.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this system trusts no authorities: name one's certificate with ?ca=FILE".into());
            }
        }
    }
    with_roots(roots)
}

/// Trusts nobody: for a client that does not use TLS, as the HTTP library wants to know of it all the same.
pub(super) fn unused() -> Result<ClientConfig, String> {
    with_roots(RootCertStore::empty())
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig, String> {
    // Named, because a process may hold several and then has no default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// What TLS found wrong, where it was TLS.
pub(super) fn trouble(error: &reqwest::Error) -> Option<String> {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = source {
        let mut inner = error;
        // What an I/O error was made of is not among its sources, and is an I/O error again in some layers.
        while let Some(made_of) = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            inner = made_of;
        }
        if let Some(tls) = inner.downcast_ref() {
            return Some(match tls {
                rustls::Error::InvalidMessage(_) => format!("{tls}: does it speak TLS there, or is it http://?"),
                rustls::Error::InvalidCertificate(_) => format!("{tls}: is it the right service, and the right ?ca=?"),
                tls => tls.to_string(),
            });
        }
        source = error.source();
    }
    None
}
