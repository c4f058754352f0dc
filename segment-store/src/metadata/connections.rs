//! Accepts connections, as many as the limits allow, gives each its time, and lets them end in order.

use super::http::Service;
use super::limits::Limits;
use super::metrics::{Counted, Metrics};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

const REFUSAL: &str = "too many connections are open already; try later";

/// Serves until `stopping` says so, then lets requests end, at most for `patience`.
pub(super) async fn serve(
    listener: TcpListener,
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
            tasks.spawn(async move {
                connection(stream, service, &limits, stopping).await;
                drop((place, counted));
            });
        } else {
            metrics.refused_connections.inc();
            if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                tasks.spawn(async move {
                    // Whoever does not take the answer in time is cut off without one.
                    let _ = tokio::time::timeout(REFUSAL_TIME, refuse(stream)).await;
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

async fn connection(stream: TcpStream, service: Arc<Service>, limits: &Limits, mut stopping: watch::Receiver<bool>) {
    if let Err(error) = prepare(&stream, limits) {
        tracing::debug!(%error, "a connection could not be set up");
        return;
    }
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

async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
         content-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\r\n{REFUSAL}",
        REFUSAL.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing with its request unread would reset the connection, and take the answer with it.
    let mut unwanted = [0; 4096];
    while stream.read(&mut unwanted).await? > 0 {}
    Ok(())
}
