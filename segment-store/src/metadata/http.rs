//! From a request to its answer. Statuses and texts are the original's where it has them.

use super::access::{Entry, Token};
use super::connections::stopped;
use super::directory::{Claim, Command, Outcome, Refusal};
use super::limits::Limits;
use super::metrics::{self, Counted, Method, Metrics};
use super::query::{self, QueryError};
use super::server::MetadataServerOptions;
use super::view::{OwnerId, Version};
use super::writer::{WriteError, WriterHandle};
use super::{OWNER_HEADER, TTL_HEADER, VERSION_HEADER};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Request, Response, StatusCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

type Answer = Response<Full<Bytes>>;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Why a request was not carried out, in a sentence for whoever sent it.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("this service wants its token, in the header `Authorization: Bearer <token>`")]
    NoToken,
    #[error("this is not the token of this service")]
    WrongToken,
    #[error("metadata key is required")]
    NoKey,
    #[error("the key has {len} bytes; at most {limit} are taken")]
    KeyTooLong { len: usize, limit: usize },
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("the header {name} must be {must_be}")]
    Header { name: &'static str, must_be: String },
    #[error("the value is too large; at most {limit} bytes are taken")]
    BodyTooLarge { limit: usize },
    #[error("the value did not come within {limit_ms} ms")]
    BodyLate { limit_ms: u128 },
    #[error("the value did not come whole")]
    BodyBroken,
    #[error(transparent)]
    Refused(Refusal),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("too many readers wait already; ask again without wait_ms, or later")]
    TooManyWaiters,
    #[error("Method not allowed")]
    Method { allow: &'static str },
    #[error("nothing is served at this path; metadata is at {path}?key=<key>")]
    Path { path: String },
    #[error("the answer could not be written down")]
    Internal,
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::NoKey | Self::Query(_) | Self::Header { .. } | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::KeyTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyLate { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Refused(Refusal::NameTaken { .. } | Refusal::NotYours { .. }) => StatusCode::CONFLICT,
            Self::Refused(Refusal::TooManyEntries { .. } | Refusal::TooManyBytes { .. }) => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            Self::Write(WriteError::Busy | WriteError::Stopping) | Self::TooManyWaiters => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Write(WriteError::Disk(_)) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Path { .. } => StatusCode::NOT_FOUND,
        }
    }

    fn answer(&self) -> Answer {
        let mut answer = plain(self.status(), self.to_string());
        if let Self::Method { allow } = self {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        // RFC 6750, section 3: a client that showed no token is not told of an error.
        let challenge = match self {
            Self::NoToken => Some(r#"Bearer realm="nvferry metadata""#),
            Self::WrongToken => Some(r#"Bearer realm="nvferry metadata", error="invalid_token""#),
            _ => None,
        };
        if let Some(challenge) = challenge {
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

/// Answers the requests of all connections.
pub(super) struct Service {
    path: String,
    token: Option<Token>,
    writer: WriterHandle,
    limits: Limits,
    metrics: Arc<Metrics>,
    bodies: Arc<Semaphore>,
    waiters: Semaphore,
    stopping: watch::Receiver<bool>,
    started: Instant,
    durable: bool,
}

/// One key of a listing.
#[derive(serde::Serialize)]
struct Listed {
    key: Arc<str>,
    version: Version,
    size_bytes: usize,
    owner: Option<OwnerId>,
}

/// One page of a listing.
#[derive(serde::Serialize)]
struct Page {
    keys: Vec<Listed>,
    /// Ask again with `after=<this>` for the rest.
    next_after: Option<Arc<str>>,
}

#[derive(serde::Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Arc<str>>,
    version: &'static str,
    store: &'static str,
    entries: usize,
    uptime_seconds: u64,
}

impl Service {
    pub(super) fn new(
        options: &MetadataServerOptions,
        writer: WriterHandle,
        metrics: Arc<Metrics>,
        durable: bool,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let limits = &options.limits;
        Self {
            path: options.path.clone(),
            token: options.token.clone(),
            writer,
            limits: limits.clone(),
            metrics,
            bodies: Arc::new(Semaphore::new(limits.bodies_bytes.max(limits.value_bytes))),
            waiters: Semaphore::new(limits.waiters),
            stopping,
            started: Instant::now(),
            durable,
        }
    }

    /// Answers one request, and counts it.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let started = Instant::now();
        let (method, result) = if request.uri().path() == self.path {
            match self.entry(request.headers()) {
                Ok(()) => self.metadata(request).await,
                Err(problem) => {
                    self.discard(request.into_body()).await;
                    (Method::OTHER, Err(problem))
                }
            }
        } else {
            (Method::OTHER, self.other(&request))
        };
        let answer = result.unwrap_or_else(|problem| problem.answer());
        self.metrics.sent_bytes.inc_by(answer.body().size_hint().exact().unwrap_or(0));
        self.metrics.request(method, answer.status().as_u16(), started.elapsed());
        answer
    }

    /// Whether this client is answered. Health and figures are open to everybody: they name no key and no address.
    fn entry(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self.token.as_ref().map_or(Entry::Open, |token| token.entry(headers)) {
            Entry::Open => Ok(()),
            Entry::NoToken => Err(Problem::NoToken),
            Entry::WrongToken => Err(Problem::WrongToken),
        }
    }

    fn other(&self, request: &Request<Incoming>) -> Result<Answer, Problem> {
        let known = ["/health", "/metrics"].contains(&request.uri().path());
        match request.uri().path() {
            _ if known && request.method() != hyper::Method::GET => Err(Problem::Method { allow: "GET" }),
            "/health" => self.health(),
            "/metrics" => {
                let text = self.metrics.encode().map_err(|_| Problem::Internal)?;
                Ok(with_body(StatusCode::OK, metrics::CONTENT_TYPE, text.into()))
            }
            _ => Err(Problem::Path { path: self.path.clone() }),
        }
    }

    fn health(&self) -> Result<Answer, Problem> {
        let reason = self.writer.shared().failing();
        let (status, code) = match reason {
            None => ("ok", StatusCode::OK),
            Some(_) => ("failing", StatusCode::SERVICE_UNAVAILABLE),
        };
        let health = Health {
            status,
            reason,
            version: env!("CARGO_PKG_VERSION"),
            store: if self.durable { "file" } else { "memory" },
            entries: self.writer.shared().view().entries.len(),
            uptime_seconds: self.started.elapsed().as_secs(),
        };
        json(code, &health)
    }

    async fn metadata(&self, request: Request<Incoming>) -> (Method, Result<Answer, Problem>) {
        let query = request.uri().query().unwrap_or("").to_owned();
        match *request.method() {
            hyper::Method::GET => match query::number(&query, "wait_ms") {
                Ok(Some(wait_ms)) => (Method::WAIT, self.wait(&query, wait_ms).await),
                Ok(None) => match query::text(&query, "prefix") {
                    Ok(Some(prefix)) if !has_key(&query) => (Method::LIST, self.list(&query, &prefix)),
                    Ok(_) => (Method::GET, self.key(&query).map(|key| self.get(&key))),
                    Err(error) => (Method::LIST, Err(error.into())),
                },
                Err(error) => (Method::WAIT, Err(error.into())),
            },
            hyper::Method::PUT => (Method::PUT, self.put(&query, request).await),
            hyper::Method::DELETE => (Method::DELETE, self.delete(&query, request.headers()).await),
            _ => (Method::OTHER, Err(Problem::Method { allow: "GET, PUT, DELETE" })),
        }
    }

    fn key(&self, query: &str) -> Result<String, Problem> {
        let key = query::text(query, "key")?.filter(|key| !key.is_empty()).ok_or(Problem::NoKey)?;
        if key.len() > self.limits.key_bytes {
            return Err(Problem::KeyTooLong { len: key.len(), limit: self.limits.key_bytes });
        }
        Ok(key)
    }

    fn get(&self, key: &str) -> Answer {
        let view = self.writer.shared().view();
        match view.entries.get(key) {
            Some(entry) => versioned(with_body(StatusCode::OK, JSON, entry.value.clone()), entry.version),
            None => versioned(plain(StatusCode::NOT_FOUND, "metadata not found"), view.version_of(key)),
        }
    }

    /// Answers when the key's version is not the one that the reader knows, or when it has waited long enough.
    async fn wait(&self, query: &str, wait_ms: u64) -> Result<Answer, Problem> {
        let key = self.key(query)?;
        let known = query::number(query, "version")?;
        let shared = self.writer.shared();
        let mut changes = shared.changes();
        let known = known.unwrap_or_else(|| shared.view().version_of(&key));
        let changed = async { while shared.view().version_of(&key) == known && changes.changed().await.is_ok() {} };
        let _place = self.waiters.try_acquire().map_err(|_| Problem::TooManyWaiters)?;
        let _counted = Counted::new(&self.metrics.waiters);
        let mut stopping = self.stopping.clone();
        let longest = Duration::from_millis(wait_ms).min(self.limits.wait);
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(longest) => {}
            () = stopped(&mut stopping) => {}
        }
        Ok(self.get(&key))
    }

    fn list(&self, query: &str, prefix: &str) -> Result<Answer, Problem> {
        let after = query::text(query, "after")?;
        let asked = query::number(query, "limit")?.and_then(|limit| usize::try_from(limit).ok());
        let limit = asked.unwrap_or(self.limits.page_keys).clamp(1, self.limits.page_keys);
        let (keys, more) = {
            let view = self.writer.shared().view();
            let mut listed = view.list(prefix, after.as_deref());
            let keys: Vec<_> = listed
                .by_ref()
                .take(limit)
                .map(|(key, entry)| Listed {
                    key: Arc::clone(key),
                    version: entry.version,
                    size_bytes: entry.value.len(),
                    owner: entry.owner.clone(),
                })
                .collect();
            (keys, listed.next().is_some())
        };
        let next_after = keys.last().filter(|_| more).map(|last| Arc::clone(&last.key));
        let version = self.writer.shared().view().version;
        Ok(versioned(json(StatusCode::OK, &Page { keys, next_after })?, version))
    }

    async fn put(&self, query: &str, request: Request<Incoming>) -> Result<Answer, Problem> {
        let (head, body) = request.into_parts();
        let checked = self.key(query).and_then(|key| Ok((key, self.claim(&head.headers)?)));
        let (value, room) = match checked {
            Ok(_) => self.receive(body).await?,
            Err(problem) => {
                self.discard(body).await;
                return Err(problem);
            }
        };
        let (key, claim) = checked?;
        let command = Command::Put { key: key.as_str().into(), value, claim };
        let text = match self.writer.execute(command, Some(room)).await? {
            Outcome::Unchanged(version) if key.contains("rpc_meta") => ("metadata unchanged", version),
            outcome => ("metadata updated", done(outcome)?),
        };
        Ok(versioned(plain(StatusCode::OK, text.0), text.1))
    }

    async fn delete(&self, query: &str, headers: &HeaderMap) -> Result<Answer, Problem> {
        let key = self.key(query)?.into();
        let owner = owner(headers)?;
        match self.writer.execute(Command::Delete { key, owner }, None).await? {
            Outcome::Missing(version) => Ok(versioned(plain(StatusCode::NOT_FOUND, "metadata not found"), version)),
            outcome => Ok(versioned(plain(StatusCode::OK, "metadata deleted"), done(outcome)?)),
        }
    }

    /// Receives a value, within the bounds on its size, on its time, and on all bodies together.
    async fn receive(&self, mut body: Incoming) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
        let result = match timeout(self.limits.receive, self.receive_from(&mut body)).await {
            Ok(result) => result,
            Err(_) => Err(Problem::BodyLate { limit_ms: self.limits.receive.as_millis() }),
        };
        if let Err(Problem::BodyTooLarge { .. }) = result {
            self.discard(body).await;
        }
        result
    }

    async fn receive_from(&self, body: &mut Incoming) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
        let limit = self.limits.value_bytes;
        let expected = match body.size_hint().upper() {
            Some(bytes) => usize::try_from(bytes).ok().filter(|bytes| *bytes <= limit),
            None => Some(limit),
        };
        let expected = expected.ok_or(Problem::BodyTooLarge { limit })?;
        let permits = u32::try_from(expected).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.bodies)
            .acquire_many_owned(permits)
            .await
            .map_err(|_| Problem::Write(WriteError::Stopping))?;
        let mut value = Vec::with_capacity(body.size_hint().exact().map_or(0, |_| expected));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::BodyBroken)?;
            let Some(data) = frame.data_ref() else { continue };
            if data.len() > limit - value.len() {
                return Err(Problem::BodyTooLarge { limit });
            }
            value.extend_from_slice(data);
            self.metrics.received_bytes.inc_by(data.len() as u64);
        }
        Ok((value.into(), room))
    }

    /// Reads a body that is not wanted, within reason: a sender that is cut off in the middle of it sees no answer.
    async fn discard(&self, mut body: Incoming) {
        let mut left = self.limits.value_bytes.saturating_mul(4);
        let read = async {
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    break;
                }
            }
        };
        // The answer says what is wrong either way.
        let _ = timeout(self.limits.receive, read).await;
    }

    fn claim(&self, headers: &HeaderMap) -> Result<Option<Claim>, Problem> {
        let max_ms = self.limits.ttl.as_millis();
        let must_be = || format!("a whole number of milliseconds from 1 to {max_ms}");
        let ttl = headers
            .get(TTL_HEADER)
            .map(|value| {
                let ttl_ms = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
                ttl_ms
                    .filter(|ttl_ms| *ttl_ms > 0 && u128::from(*ttl_ms) <= max_ms)
                    .map(Duration::from_millis)
                    .ok_or_else(|| Problem::Header { name: "X-Nvferry-Ttl-Ms", must_be: must_be() })
            })
            .transpose()?;
        match (owner(headers)?, ttl) {
            (Some(owner), ttl) => Ok(Some(Claim { owner, ttl })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Problem::Header {
                name: "X-Nvferry-Owner",
                must_be: "there where X-Nvferry-Ttl-Ms is: owners expire, not keys".into(),
            }),
        }
    }
}

fn owner(headers: &HeaderMap) -> Result<Option<OwnerId>, Problem> {
    let Some(value) = headers.get(OWNER_HEADER) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(Some(text.into()))
        }
        _ => Err(Problem::Header {
            name: "X-Nvferry-Owner",
            must_be: "1 to 128 visible ASCII characters without spaces".into(),
        }),
    }
}

fn has_key(query: &str) -> bool {
    query.split('&').any(|pair| pair == "key" || pair.starts_with("key="))
}

/// The key's version after a request that was carried out.
fn done(outcome: Outcome) -> Result<Version, Problem> {
    match outcome {
        Outcome::Updated(version)
        | Outcome::Unchanged(version)
        | Outcome::Deleted(version)
        | Outcome::Missing(version) => Ok(version),
        Outcome::Refused(refusal) => Err(Problem::Refused(refusal)),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    with_body(status, TEXT, text.into())
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Result<Answer, Problem> {
    let text = serde_json::to_vec(value).map_err(|_| Problem::Internal)?;
    Ok(with_body(status, JSON, text.into()))
}

fn with_body(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn versioned(mut answer: Answer, version: Version) -> Answer {
    answer.headers_mut().insert(VERSION_HEADER, version.into());
    answer
}
