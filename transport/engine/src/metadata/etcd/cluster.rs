//! The endpoints of one etcd: each call goes to one that answers, and ends by its deadline also when none does.
//!
//! A call tries the endpoint that served the last one, and then the others, each with an equal share of the time that is
//! left, so that one that swallows everything costs its share once. All calls are idempotent.

use super::address::{Address, TlsFiles};
use crate::deadline::Deadline;
use crate::error::{EngineError, ErrorKind};
use crate::metadata::secret_file::check_closed;
use crate::metadata::{MetadataError, shorten};
use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tonic::{Code, ConnectError, Status};

/// Rounds over all endpoints when a connection that stood broke, as it does when etcd is restarted or elects.
const ROUNDS: u32 = 3;
const BETWEEN_ROUNDS: Duration = Duration::from_millis(50);
/// For a connection to be made, of which a call may have less.
const CONNECT: Duration = Duration::from_secs(5);
/// Pings that find a dead connection under a watch. etcd takes one every 5 s at most.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What to look at when a connection breaks before etcd said anything.
const IS_IT_ONE: &str = "does an etcd listen there, and both with TLS or both without?";

/// What an attempt of a call came to.
pub(super) enum Trouble {
    /// Nothing was sent. Another endpoint may be reached.
    Unreachable(String),
    /// It may have been done, or not; another attempt may work.
    Broken(String),
    /// etcd has answered, and it is no.
    Refused { code: u16, answer: String },
    /// It ends here, for a reason of the caller's own.
    Final(MetadataError),
}

/// One etcd, by all its endpoints.
pub(super) struct Cluster {
    pub(super) location: String,
    endpoints: Vec<Endpoint>,
    options: ConnectOptions,
    preferred: AtomicUsize,
}

struct Endpoint {
    address: String,
    url: String,
    /// Forgotten after each trouble, and made anew then.
    client: Mutex<Option<Client>>,
}

impl Cluster {
    /// Nothing is connected yet; the files are read.
    pub(super) fn new(address: &Address) -> Result<Self, EngineError> {
        let location = address.location();
        let refused = |why: String| EngineError::new(ErrorKind::InvalidArgument, format!("etcd '{location}': {why}"));
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            // A member that is cut off from the others must not answer as if all were well.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = &address.user {
            options = options.with_user(&user.name, &user.password);
        }
        let scheme = if address.tls.is_some() { "https" } else { "http" };
        if let Some(files) = &address.tls {
            options = options.with_tls(tls_options(files).map_err(refused)?);
        }
        let endpoint = |address: &String| Endpoint {
            address: address.clone(),
            url: format!("{scheme}://{address}"),
            client: Mutex::new(None),
        };
        let endpoints = address.endpoints.iter().map(endpoint).collect();
        Ok(Self { location, endpoints, options, preferred: AtomicUsize::new(0) })
    }

    /// Runs the operation with a client of one endpoint after the other until it is done or refused, or its time is up.
    pub(super) async fn call<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        attempt: &str,
        deadline: Deadline,
        operation: impl Fn(Client) -> F,
    ) -> Result<T, MetadataError> {
        let started = Instant::now();
        let (location, attempt) = (|| self.location.clone(), || attempt.to_owned());
        let late = || {
            let waited_ms = started.elapsed().as_millis();
            MetadataError::Late { location: location(), attempt: attempt(), waited_ms }
        };
        let mut round = 1;
        loop {
            let first = self.preferred.load(Ordering::Relaxed);
            let count = self.endpoints.len();
            let (mut may_be_done, mut causes) = (false, Vec::new());
            for step in 0..count {
                let index = (first + step) % count;
                let endpoint = &self.endpoints[index];
                // The conversion loses nothing: there are few endpoints.
                let share = deadline.remaining() / u32::try_from(count - step).unwrap_or(u32::MAX);
                let result = tokio::time::timeout(share, self.call_at(endpoint, &operation)).await;
                let trouble = match result {
                    Ok(Ok(done)) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(done);
                    }
                    Ok(Err(trouble)) => trouble,
                    Err(_) => Trouble::Broken("no answer in time".into()),
                };
                let cause = match trouble {
                    Trouble::Refused { code, answer } => {
                        self.preferred.store(index, Ordering::Relaxed);
                        let (location, attempt) = (location(), attempt());
                        return Err(MetadataError::Refused { location, attempt, status: code, answer });
                    }
                    Trouble::Final(error) => return Err(error),
                    Trouble::Unreachable(cause) => cause,
                    Trouble::Broken(cause) => {
                        may_be_done = true;
                        cause
                    }
                };
                *endpoint.client.lock() = None;
                causes.push(if count > 1 { format!("{}: {cause}", endpoint.address) } else { cause });
            }
            if deadline.has_passed() {
                return Err(late());
            }
            if !may_be_done || round == ROUNDS {
                let (location, attempt, cause) = (location(), attempt(), causes.join("; "));
                return Err(match may_be_done {
                    true => MetadataError::Broken { location, attempt, cause },
                    false => MetadataError::Unreachable { location, attempt, cause },
                });
            }
            tokio::time::sleep(BETWEEN_ROUNDS * round).await;
            round += 1;
        }
    }

    async fn call_at<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        endpoint: &Endpoint,
        operation: &impl Fn(Client) -> F,
    ) -> Result<T, Trouble> {
        let known = endpoint.client.lock().clone();
        let client = match known {
            Some(client) => client,
            None => {
                // With a user, this authenticates; otherwise it does not connect yet.
                let client = Client::connect([&endpoint.url], Some(self.options.clone())).await?;
                *endpoint.client.lock() = Some(client.clone());
                client
            }
        };
        operation(client).await
    }
}

fn tls_options(files: &TlsFiles) -> Result<TlsOptions, String> {
    let read = |what: &str, path: &Path, begins: &str| {
        let pem = std::fs::read(path).map_err(|error| format!("{what} {} cannot be read: {error}", path.display()))?;
        match String::from_utf8_lossy(&pem).contains(begins) {
            true => Ok(pem),
            false => Err(format!("{what} {} is no PEM file with '{begins}'", path.display())),
        }
    };
    let mut options = TlsOptions::new();
    options = match &files.ca {
        Some(ca) => options.ca_certificate(Certificate::from_pem(read("ca", ca, "BEGIN CERTIFICATE")?)),
        None => options.with_native_roots(),
    };
    if let Some((cert, key)) = &files.identity {
        check_closed("key", key)?;
        let (cert, key) = (read("cert", cert, "BEGIN CERTIFICATE")?, read("key", key, "PRIVATE KEY")?);
        options = options.identity(Identity::from_pem(cert, key));
    }
    Ok(options)
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::GRpcStatus(status) => trouble_of(&status),
            error @ Error::TransportError(_) => Self::Unreachable(innermost(&error)),
            error => Self::Broken(shorten(&error.to_string())),
        }
    }
}

fn trouble_of(status: &Status) -> Trouble {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            let cause = innermost(error);
            // What a TLS client says of one that does not speak it.
            let is_no_tls = cause.contains("tls handshake eof") || cause.contains("corrupt message");
            return Trouble::Unreachable(if is_no_tls { format!("{cause}: {IS_IT_ONE}") } else { cause });
        }
        source = error.source();
    }
    let answer = shorten(status.message());
    match status.code() {
        // The token has expired, or users were changed since it was given out: a new client has a new one.
        _ if answer.contains("invalid auth token") || answer.contains("auth store is old") => Trouble::Broken(answer),
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::Cancelled
        | Code::Aborted
        | Code::DeadlineExceeded => {
            let cause = innermost(status);
            Trouble::Broken(if cause.starts_with("etcdserver:") { cause } else { format!("{cause}: {IS_IT_ONE}") })
        }
        code => {
            let hint = if answer.contains("user name is empty") {
                ": this etcd wants a user: etcd://user@host:port"
            } else if answer.contains("authentication is not enabled") {
                ": this etcd knows no users: leave the user out of the address"
            } else {
                ""
            };
            // Codes are small.
            let code = u16::try_from(i32::from(code)).unwrap_or_default();
            Trouble::Refused { code, answer: format!("{answer}{hint}") }
        }
    }
}

/// What the operating system, or etcd, said. The layers around it only say that they failed.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match innermost.downcast_ref::<Status>() {
        Some(status) => shorten(status.message()),
        None => shorten(&innermost.to_string()),
    }
}
