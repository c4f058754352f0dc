//! The server with TLS, and the engine's client: whom they believe, and that time and number of connections are bounded.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use nvferry_engine::Deadline;
use nvferry_engine::metadata::http::HttpStore;
use nvferry_engine::metadata::{MetadataError, MetadataStore};
use nvferry_store::metadata::{Limits, TlsFiles};
use nvferry_store::{MetadataServer, MetadataServerOptions, StartError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> TlsFiles {
        let mut params = CertificateParams::new(vec![name.into()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let path = |what: &str| self.dir.path().join(format!("{name}.{what}"));
        let files = TlsFiles { certificate: path("pem"), key: path("key") };
        std::fs::write(&files.certificate, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// A server for 127.0.0.1.
    fn server(&self, limits: Limits) -> MetadataServer {
        start_tls(self.issue("127.0.0.1", |_| {}), limits)
    }
}

fn start_tls(files: TlsFiles, limits: Limits) -> MetadataServer {
    MetadataServer::start(MetadataServerOptions { tls: Some(files), limits, ..Default::default() }).unwrap()
}

fn client(url: &str, ca: &Path) -> HttpStore {
    HttpStore::new(&format!("{url}?ca={}", ca.display())).unwrap()
}

fn quick() -> Limits {
    Limits { receive: Duration::from_millis(100), ..Limits::default() }
}

/// A connection on which the handshake is done.
fn shaken(authority: &Authority, server: &MetadataServer) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream
}

#[test]
fn all_that_works_without_tls_works_with_it() {
    let authority = Authority::new("ours");
    let server = authority.server(Limits::default());
    assert!(server.url().starts_with("https://127.0.0.1:"), "{}", server.url());
    let client = client(server.url(), &authority.ca());
    assert_eq!(client.location(), server.url());
    let large = "x".repeat(4 << 20);
    client.put("k", &large, None, soon()).unwrap();
    let found = client.get("k", soon()).unwrap().unwrap();
    assert!(found.text == large, "the value came back changed");
    assert_eq!(client.list("", soon()).unwrap(), ["k"]);
    let (sender, told) = channel();
    let on_change = Arc::new(move || {
        // The test has ended when nobody receives.
        let _ = sender.send(());
    });
    let _watch = client.watch("k", found.version, on_change).unwrap();
    client.put("k", "2", None, soon()).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    assert!(client.remove("k", None, soon()).unwrap());
    server.shutdown();
}

#[test]
fn p13_a_server_that_does_not_prove_itself_is_told_nothing() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let long_ago = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    };
    let cases = [
        ("another authority", theirs.issue("127.0.0.1", |_| {}), "UnknownIssuer"),
        ("expired", ours.issue("127.0.0.1", long_ago), "expired"),
        ("another name", ours.issue("elsewhere.example", |_| {}), "not valid for name"),
    ];
    for (case, files, why) in cases {
        let server = start_tls(files, Limits::default());
        let client = client(server.url(), &ours.ca());
        let error = client.put("k", "v", None, soon()).unwrap_err();
        assert!(matches!(error, MetadataError::Tls { .. }), "{case}: {error:?}");
        assert!(error.to_string().contains(why) && !error.may_be_done(), "{case}: {error}");
        // The system's authorities do not vouch for it either; a system that has none says that.
        let system = HttpStore::new(server.url());
        assert!(system.map_or(true, |client| client.get("k", soon()).is_err()), "{case}");
    }
}

#[test]
fn either_side_without_tls_is_told_so() {
    let authority = Authority::new("ours");
    let server = authority.server(Limits::default());
    let plain = server.url().replace("https://", "http://");
    let error = HttpStore::new(&plain).unwrap().get("k", soon()).unwrap_err();
    assert!(error.to_string().contains("400: this service speaks TLS: begin its address with https://"), "{error}");
    let server = start();
    let secure = server.url().replace("http://", "https://");
    let error = client(&secure, &authority.ca()).get("k", soon()).unwrap_err();
    assert!(matches!(error, MetadataError::Tls { .. }), "{error:?}");
    assert!(error.to_string().contains("does it speak TLS there"), "{error}");
}

#[test]
fn p14_a_handshake_that_does_not_end_is_ended() {
    let authority = Authority::new("ours");
    let server = authority.server(quick());
    // Nothing at all; a ClientHello that stops; one that says it is huge; noise; half a request without TLS.
    for sent in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00", b"\x16\x03\x01\xff\xff", b"\x00\xff\x80", b"GET / HT"] {
        let mut connection = Connection::open(server.address());
        connection.stream.write_all(sent).unwrap();
        connection.closed();
    }
    until("all of them to be counted", || {
        let mut stream = shaken(&authority, &server);
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.contains("\nnvferry_metadata_failed_handshakes_total 5\n")
    });
    // Done, and then only half a head comes: the limit is that of requests without TLS.
    let mut stream = shaken(&authority, &server);
    stream.write_all(b"GET /health HTTP/1.1\r\nho").unwrap();
    let mut rest = Vec::new();
    // It may be closed with or without a word.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    let client = client(server.url(), &authority.ca());
    assert_eq!(client.get("k", soon()).unwrap(), None, "others are served");
}

#[test]
fn connections_count_from_before_the_handshake() {
    let authority = Authority::new("ours");
    let server = authority.server(Limits { connections: 2, ..Limits::default() });
    let first = Connection::open(server.address());
    let mut second = shaken(&authority, &server);
    Connection::open(server.address()).closed();
    second.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    second.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    drop((first, second));
    until("there is room", || {
        let client = client(server.url(), &authority.ca());
        client.get("k", soon()).is_ok()
    });
}

#[test]
fn a_server_that_stops_does_not_wait_for_handshakes() {
    let authority = Authority::new("ours");
    let files = authority.issue("127.0.0.1", |_| {});
    let limits = Limits { receive: Duration::from_secs(3600), ..Limits::default() };
    let options = MetadataServerOptions { tls: Some(files), limits, patience: PATIENCE * 2, ..Default::default() };
    let server = MetadataServer::start(options).unwrap();
    let mut begun = Connection::open(server.address());
    begun.stream.write_all(b"\x16\x03\x01").unwrap();
    // Accepted after the one that has begun.
    drop(shaken(&authority, &server));
    let (sender, stopped) = channel();
    std::thread::spawn(move || {
        server.shutdown();
        // The test has failed when nobody receives.
        let _ = sender.send(());
    });
    stopped.recv_timeout(PATIENCE).unwrap();
    begun.closed();
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (one, other) = (Authority::new("ours"), Authority::new("theirs"));
    let (good, strange) = (one.issue("127.0.0.1", |_| {}), other.issue("127.0.0.1", |_| {}));
    let TlsFiles { certificate, key } = &good;
    let missing = PathBuf::from("/does/not/exist");
    for (certificate, key, named) in [
        (&missing, key, &missing),
        (certificate, &missing, &missing),
        (key, key, key),
        (certificate, certificate, certificate),
        (certificate, &strange.key, &strange.key),
    ] {
        let tls = Some(TlsFiles { certificate: certificate.clone(), key: key.clone() });
        let error = MetadataServer::start(MetadataServerOptions { tls, ..Default::default() }).unwrap_err();
        assert!(matches!(error, StartError::Tls(_)), "{error:?}");
        assert!(error.to_string().contains(named.to_str().unwrap()), "{error}");
        assert!(!error.to_string().contains("PRIVATE"), "{error}");
    }
    for ca in [missing.as_path(), key] {
        let error = HttpStore::new(&format!("https://127.0.0.1:1/metadata?ca={}", ca.display())).unwrap_err();
        assert!(error.to_string().contains(ca.to_str().unwrap()), "{error}");
    }
}
