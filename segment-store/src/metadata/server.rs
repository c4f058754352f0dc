//! The metadata server as a thing that starts, says where it is, and stops. It brings its own threads, so that
//! callers need no async runtime.

use super::access::Token;
use super::connections;
use super::disk::DiskError;
use super::http::Service;
use super::limits::Limits;
use super::metrics::Metrics;
use super::tls::{self, Acceptor, TlsFiles};
use super::writer::{self, StartWriterError, WriterHandle};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// How a metadata server is to run.
#[derive(Debug, Clone)]
pub struct MetadataServerOptions {
    /// Where to listen: `address:port` or `name:port`; port 0 takes a free one.
    pub listen: String,
    /// The path of the metadata, `/metadata` as the original has it.
    pub path: String,
    /// The file that keeps the entries over restarts; `None` keeps them in memory only.
    pub store: Option<PathBuf>,
    /// What requests have to bear; `None` answers everybody.
    pub token: Option<Token>,
    /// With what it shows clients that it is the one that they mean. Needs the feature `tls`.
    pub tls: Option<TlsFiles>,
    /// What is bounded, and by how much.
    pub limits: Limits,
    /// When stopping, requests under way have this long to end.
    pub patience: Duration,
}

impl Default for MetadataServerOptions {
    /// A free port on loopback, and nothing kept: what a test or an embedding program wants.
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".into(),
            path: "/metadata".into(),
            store: None,
            token: None,
            tls: None,
            limits: Limits::default(),
            patience: Duration::from_secs(5),
        }
    }
}

/// Why a metadata server did not start. Nothing is left running then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address cannot be understood or resolved.
    #[error("cannot listen on `{listen}`: {reason}; give address:port, such as 127.0.0.1:8080")]
    Address {
        /// What was given.
        listen: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The path is not one.
    #[error("the metadata path `{path}` {reason}; the usual one is /metadata")]
    Path {
        /// What was given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The port cannot be had.
    #[error("cannot listen on {address}: {}", listen_reason(.source))]
    Listen {
        /// What was tried.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be used.
    #[error(transparent)]
    Store(#[from] DiskError),
    /// It cannot speak TLS.
    #[error("cannot serve with TLS: {0}")]
    Tls(String),
    /// The machine is out of something.
    #[error("cannot start the metadata server: {0}")]
    System(io::Error),
}

fn listen_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use; choose another, or stop the program that has it".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have this address".to_owned(),
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; choose a higher one".to_owned(),
        _ => error.to_string(),
    }
}

/// A running metadata server. Dropping it stops it.
#[derive(Debug)]
pub struct MetadataServer {
    address: SocketAddr,
    url: String,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl MetadataServer {
    /// Starts one. When this returns, it can be reached.
    ///
    /// # Errors
    /// When the address or path is wrong, the port is taken, or the store cannot be used.
    pub fn start(options: MetadataServerOptions) -> Result<Self, StartError> {
        check_path(&options.path)?;
        let acceptor = options.tls.as_ref().map(tls::acceptor).transpose().map_err(StartError::Tls)?;
        let listener = listen(&options)?;
        let address = listener.local_addr().map_err(StartError::System)?;
        let metrics = Arc::new(Metrics::new());
        let durable = options.store.is_some();
        let (writer, writer_thread) = writer::start(options.store.clone(), &options.limits, Arc::clone(&metrics))
            .map_err(|error| match error {
                StartWriterError::Disk(error) => StartError::Store(error),
                StartWriterError::Thread(error) => StartError::System(error),
            })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(StartError::System)?;
        let (stop, stopping) = watch::channel(false);
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}{}", reachable(address), options.path);
        let thread = std::thread::Builder::new()
            .name("nvferry-meta".into())
            .spawn(move || {
                runtime.block_on(run(listener, acceptor, options, writer, durable, metrics, stopping));
                // Tasks hold handles of the writer, and it ends when the last is gone.
                drop(runtime);
                if writer_thread.join().is_err() {
                    tracing::error!("the metadata server's writer died");
                }
            })
            .map_err(StartError::System)?;
        Ok(Self { address, url, stop, thread: Some(thread) })
    }

    /// Where it listens, with the port that it has got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients on this machine find the metadata: `http://address:port/metadata`, or `https://`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops it: no new connections, requests under way end (at the latest after the options' patience), what was
    /// acknowledged is on the disk.
    pub fn shutdown(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metadata server's thread died");
        }
    }
}

impl Drop for MetadataServer {
    fn drop(&mut self) {
        self.stop_and_join();
    }
}

async fn run(
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    options: MetadataServerOptions,
    writer: WriterHandle,
    durable: bool,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<bool>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the metadata server cannot watch its socket"),
    };
    let service = Arc::new(Service::new(&options, writer, Arc::clone(&metrics), durable, stopping.clone()));
    connections::serve(listener, acceptor, service, options.limits, metrics, stopping, options.patience).await;
}

fn check_path(path: &str) -> Result<(), StartError> {
    let reason = if !path.starts_with('/') {
        "does not begin with a slash"
    } else if ["/health", "/metrics"].contains(&path) {
        "is taken by the server itself"
    } else if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte)) {
        "has characters other than letters, digits and /-._~"
    } else {
        return Ok(());
    };
    Err(StartError::Path { path: path.to_owned(), reason })
}

fn listen(options: &MetadataServerOptions) -> Result<TcpListener, StartError> {
    let listen = options.listen.as_str();
    let bad = |reason: String| StartError::Address { listen: listen.to_owned(), reason };
    let mut failed = None;
    for address in listen.to_socket_addrs().map_err(|error| bad(error.to_string()))? {
        match TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener)) {
            Ok(listener) => {
                if let Some(exposed) = exposed(address.ip(), options.token.is_some(), options.tls.is_some()) {
                    tracing::warn!(%address, "{exposed}");
                }
                return Ok(listener);
            }
            Err(source) => failed = Some(StartError::Listen { address, source }),
        }
    }
    Err(failed.unwrap_or_else(|| bad("the name has no address".to_owned())))
}

/// What a service that listens there lays open, to be warned of.
fn exposed(ip: IpAddr, has_token: bool, has_tls: bool) -> Option<&'static str> {
    match (has_token, has_tls) {
        _ if ip.is_loopback() => None,
        (false, _) => Some("anyone who reaches this address can read and change the metadata"),
        (true, false) => Some("without TLS the token crosses the network where others can read it"),
        (true, true) => None,
    }
}

/// The address that a client on this machine connects to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_open_is_warned_of() {
        let warned = |ip: &str, has_token, has_tls| {
            exposed(ip.parse().unwrap(), has_token, has_tls).map(|text| text.split(' ').next().unwrap())
        };
        for ip in ["127.0.0.1", "127.1.2.3", "::1"] {
            assert_eq!(warned(ip, false, false), None, "{ip}");
        }
        for ip in ["0.0.0.0", "10.0.0.1", "::", "fe80::1"] {
            assert_eq!(warned(ip, false, false), Some("anyone"), "{ip}");
            assert_eq!(warned(ip, false, true), Some("anyone"), "{ip}: TLS keeps nobody out");
            assert_eq!(warned(ip, true, false), Some("without"), "{ip}");
            assert_eq!(warned(ip, true, true), None, "{ip}");
        }
    }
}
