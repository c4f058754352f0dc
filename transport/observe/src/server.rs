//! A small HTTP server: `GET /metrics` and `GET /status`.
//!
//! One thread, a few connections at once, each with a time limit. What is slow, dead or too much is cut off; nothing
//! that serves data ever waits for it.

use crate::{CONTENT_TYPE, Observer};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE as CONTENT_TYPE_HEADER, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

/// Connections at once; further ones are told to come again.
pub const MAX_CONNECTIONS: usize = 8;
/// A connection has this long for its request and for taking the answer.
pub const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// When no connection can be accepted (no descriptors left), this long passes before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;

const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExporterError {
    /// The address cannot be understood or resolved.
    #[error("cannot listen on `{listen}` for metrics: {reason}; give address:port, such as 127.0.0.1:9420")]
    Address {
        /// What was given.
        listen: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The port cannot be had.
    #[error("cannot listen on {address} for metrics: {cause}; choose another port, or stop the program that has it")]
    Listen {
        /// What was tried.
        address: SocketAddr,
        /// Why not.
        cause: io::Error,
    },
    /// The machine is out of something.
    #[error("cannot start the thread that tells metrics: {0}")]
    System(#[source] io::Error),
}

/// A port for an exporter. Nobody is answered yet.
#[derive(Debug)]
pub struct ExporterSocket {
    listener: TcpListener,
    address: SocketAddr,
}

impl ExporterSocket {
    /// Takes a port: `address:port`, or `name:port`; port 0 takes a free one. Warns where others than this machine
    /// reach it.
    ///
    /// # Errors
    /// The address is none, or the port cannot be had.
    pub fn bind(listen: &str) -> Result<Self, ExporterError> {
        let bad = |reason: String| ExporterError::Address { listen: listen.to_owned(), reason };
        let mut failed = None;
        for address in listen.to_socket_addrs().map_err(|error| bad(error.to_string()))? {
            match TcpListener::bind(address)
                .and_then(|it| it.set_nonblocking(true).and(it.local_addr().map(|at| (it, at))))
            {
                Ok((listener, address)) => {
                    if !address.ip().is_loopback() {
                        tracing::warn!(
                            target: "nvferry::observe", %address,
                            "anyone who reaches this address can read figures, and names of files and hosts"
                        );
                    }
                    return Ok(Self { listener, address });
                }
                Err(cause) => failed = Some(ExporterError::Listen { address, cause }),
            }
        }
        Err(failed.unwrap_or_else(|| bad("the name has no address".to_owned())))
    }

    /// Where it listens, with the port that it has got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where others find the status page. One that listens on all addresses is found at `public`, if that is given.
    #[must_use]
    pub fn status_url(&self, public: Option<IpAddr>) -> String {
        let ip = public.filter(|_| self.address.ip().is_unspecified()).unwrap_or(self.address.ip());
        format!("http://{}/status", SocketAddr::new(ip, self.address.port()))
    }

    /// Answers from now on.
    ///
    /// # Errors
    /// The machine has no thread or descriptor left.
    pub fn serve(self, observer: Observer) -> Result<Exporter, ExporterError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(ExporterError::System)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let Self { listener, address } = self;
        let run = move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, Arc::new(observer)) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("nvferry-observe".into()).spawn(run);
        let thread = Some(thread.map_err(ExporterError::System)?);
        Ok(Exporter { address, stop: Some(stop), thread })
    }
}

/// A running exporter. Dropping it stops it at once.
#[derive(Debug)]
pub struct Exporter {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(target: "nvferry::observe", "the thread that tells metrics panicked");
        }
    }
}

async fn accept(listener: TcpListener, observer: Arc<Observer>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(target: "nvferry::observe", %error, "metrics cannot be told"),
    };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(target: "nvferry::observe", %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            // A fresh socket takes so little; whoever does not read it is not waited for.
            let _ = stream.try_write(BUSY);
            continue;
        };
        let observer = Arc::clone(&observer);
        tokio::spawn(async move {
            // One that is too slow is cut off.
            let _ = tokio::time::timeout(CONNECTION_TIME, connection(stream, observer)).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, observer: Arc<Observer>) {
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request| {
        let answer = answer(&request, &observer);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        // Places are few: none is kept for a next time.
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(target: "nvferry::observe", %error, "a reader of metrics went away");
    }
}

fn answer(request: &Request<Incoming>, observer: &Observer) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, content_type, body) = match request.uri().path() {
        "/metrics" | "/status" if request.method() != Method::GET => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered".to_owned())
        }
        "/metrics" => (StatusCode::OK, CONTENT_TYPE, observer.metrics()),
        "/status" => (StatusCode::OK, "application/json", observer.page().to_json()),
        _ => (StatusCode::NOT_FOUND, TEXT, "there is /metrics for Prometheus, and /status as JSON".to_owned()),
    };
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE_HEADER, HeaderValue::from_static(content_type));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    answer
}
