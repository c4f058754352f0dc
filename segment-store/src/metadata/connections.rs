//! Accepts connections, as many as the limits allow, gives each its time, and lets them end in order.

use super::http::Service;
use super::limits::Limits;
use super::metrics::{Counted, Metrics};
use super::tls::{self, Acceptor};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Bytes of a connection's read buffer.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes of a request's head: a key of 1 KiB may take 3 KiB encoded.
const HEAD_BYTES: usize = 16 << 10;

/// Connections beyond the limit that are being told so; more are just closed.
const MAX_REFUSALS: usize = 64;

/// For this long a refused peer can take to read why.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// When no connection can be accepted (no descriptors left), this long passes before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is said in place of an answer: the rest of the status line, headers, text.
struct Refusal(&'static str, &'static str);

const TOO_MANY: Refusal =
    Refusal("503 Service Unavailable\r\nretry-after: 1", "too many connections are open already; try later");

const NOT_TLS: Refusal = Refusal("400 Bad Request", "this service speaks TLS: begin its address with https://");

/// Serves until `stopping` says so, then lets requests end, at most for `patience`.
pub(super) async fn serve(
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    service: Arc<Service>,
    limits: Limits,
    metrics: Arc<Metrics>,
    mut stopping: watch::Receiver<bool>,
    patience: Duration,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            () = stopped(&mut stopping) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if ended_early(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let counted = Counted::new(&metrics.connections);
            let (service, limits, stopping) = (Arc::clone(&service), limits.clone(), stopping.clone());
            let (acceptor, metrics) = (acceptor.clone(), Arc::clone(&metrics));
            tasks.spawn(async move {
                connection(stream, acceptor, service, &limits, stopping, &metrics).await;
                drop((place, counted));
            });
        } else {
            metrics.refused_connections.inc();
            // With TLS, nothing can be said without the work of a handshake.
            if acceptor.is_none()
                && let Ok(place) = Arc::clone(&refusals).try_acquire_owned()
            {
                tasks.spawn(async move {
                    // Whoever does not take the answer in time is cut off without one.
                    let _ = tokio::time::timeout(REFUSAL_TIME, refuse(stream, TOO_MANY)).await;
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, ended).await.is_err() {
        tracing::warn!(connections = tasks.len(), "cutting connections off that did not end in time");
    }
    tasks.shutdown().await;
}

/// Returns when the server is to stop, or is gone.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Errors of one connection that died before it was accepted.
fn ended_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

async fn connection(
    stream: TcpStream,
    acceptor: Option<Acceptor>,
    service: Arc<Service>,
    limits: &Limits,
    mut stopping: watch::Receiver<bool>,
    metrics: &Metrics,
) {
    if let Err(error) = prepare(&stream, limits) {
        tracing::debug!(%error, "a connection could not be set up");
        return;
    }
    let Some(acceptor) = acceptor else { return requests(stream, service, limits, stopping).await };
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(limits.receive, shake_hands(stream, &acceptor)) => shaken,
        () = stopped(&mut stopping) => return,
    };
    match shaken {
        Ok(Ok(stream)) => return requests(stream, service, limits, stopping).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS connection was not made"),
        Err(_) => tracing::debug!("a TLS connection was not made in time"),
    }
    metrics.failed_handshakes.inc();
}

async fn shake_hands(stream: TcpStream, acceptor: &Acceptor) -> io::Result<tls::Stream> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    if first[0].is_ascii_alphabetic() {
        refuse(stream, NOT_TLS).await?;
        return Err(io::Error::other("the client does not speak TLS"));
    }
    tls::accept(acceptor, stream).await
}

/// Answers the requests of one connection.
async fn requests<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    service: Arc<Service>,
    limits: &Limits,
    mut stopping: watch::Receiver<bool>,
) {
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.receive)
        .max_buf_size(BUFFER_BYTES)
        .max_header_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stopped(&mut stopping) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn prepare(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // The kernel cuts off a peer that is gone, or that does not read its answer.
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(limits.send))
}

async fn refuse(mut stream: TcpStream, Refusal(status, text): Refusal) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing with its request unread would reset the connection, and take the answer with it.
    let mut unwanted = [0; 4096];
    while stream.read(&mut unwanted).await? > 0 {}
    Ok(())
}
