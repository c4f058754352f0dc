//! A client of the HTTP metadata service: `GET`, `PUT` and `DELETE` of `<url>?key=<percent-encoded key>`.
//!
//! What this project's server can do beyond the original's travels where the original does not look: the headers
//! `X-Nvferry-Owner` and `X-Nvferry-Ttl-Ms` on `PUT` and `DELETE` (entries of an owner that stopped renewing expire), the
//! header `X-Nvferry-Version` on answers, and on `GET` `wait_ms=` and `version=` (answer when the version is another one,
//! or after that long) or `prefix=` and `after=` in place of the key (list keys). With a server that lacks these, nothing
//! expires, readers learn of changes when they miss something, and listing is refused.
//!
//! [`access`] takes the address apart and finds the token; `tls`, with the feature of that name, decides which servers
//! are believed.

mod access;
#[cfg(feature = "tls")]
mod tls;

use super::{MetadataError, MetadataStore, OnChange, Ownership, Versioned, Watch, shorten};
use crate::control_runtime::control_runtime;
use crate::deadline::Deadline;
use crate::error::{EngineError, ErrorKind};
use access::{Access, Token};
use reqwest::header::{AUTHORIZATION, LOCATION};
use reqwest::{Client, Method, Response, StatusCode};
use std::error::Error;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const OWNER_HEADER: &str = "X-Nvferry-Owner";
const TTL_HEADER: &str = "X-Nvferry-Ttl-Ms";
const VERSION_HEADER: &str = "X-Nvferry-Version";

/// The longest answer that is taken, in bytes: twice what this project's server holds.
const ANSWER_BYTES: usize = 8 << 20;
/// The longest listing that is taken, in bytes of all its answers.
const LISTING_BYTES: usize = 64 << 20;
/// Tries of one call whose connection broke. All calls are idempotent.
const TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
/// How long one question for a change waits at the server.
const LONG_POLL: Duration = Duration::from_secs(30);
/// How much later than that its answer may come.
const LONG_POLL_SLACK: Duration = Duration::from_secs(10);
/// Pauses of a watch after failures: the first, doubling up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// The client.
#[derive(Debug, Clone)]
pub struct HttpStore {
    url: String,
    token: Option<Token>,
    client: Client,
}

/// An answer that was received whole.
struct Answer {
    status: StatusCode,
    version: Option<u64>,
    body: Vec<u8>,
}

/// One page of a listing.
#[derive(serde::Deserialize)]
struct Page {
    keys: Vec<Listed>,
    #[serde(default)]
    next_after: Option<String>,
}

#[derive(serde::Deserialize)]
struct Listed {
    key: String,
}

/// What a call is about.
#[derive(Debug, Clone)]
enum Subject {
    Key(String),
    KeysThatBegin(String),
}

/// One call, to be tried until the deadline.
#[derive(Debug, Clone)]
struct Call {
    method: Method,
    subject: Subject,
    query: String,
    body: Option<String>,
    owner: Option<Ownership>,
}

impl Call {
    fn new(method: Method, key: &str) -> Self {
        Self { method, subject: Subject::Key(key.to_owned()), query: String::new(), body: None, owner: None }
    }

    fn attempt(&self) -> String {
        match &self.subject {
            Subject::Key(key) => format!("{} of {key}", self.method),
            Subject::KeysThatBegin(prefix) => format!("listing of {prefix}"),
        }
    }

    fn target(&self, url: &str) -> String {
        let (name, value) = match &self.subject {
            Subject::Key(key) => ("key", key),
            Subject::KeysThatBegin(prefix) => ("prefix", prefix),
        };
        format!("{url}?{name}={}{}", percent_encoded(value), self.query)
    }
}

impl HttpStore {
    /// A client of the service at this URL. Nothing is connected yet; files that the address or the environment name are
    /// read.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when it is no URL, has a password in it, or names files that cannot be used;
    /// [`ErrorKind::NotImplemented`] for `https://` without the feature `tls`.
    pub fn new(url: &str) -> Result<Self, EngineError> {
        let shown = super::without_secrets(url);
        let refused = |kind, why: String| EngineError::new(kind, format!("metadata service '{shown}': {why}"));
        let access = Access::parse(url, |name| std::env::var_os(name))
            .map_err(|why| refused(ErrorKind::InvalidArgument, why))?;
        let builder = Client::builder();
        #[cfg(feature = "tls")]
        let builder = {
            let config = if access.is_tls { tls::config(access.ca.as_deref()) } else { tls::unused() };
            let config = config.map_err(|why| refused(ErrorKind::InvalidArgument, why))?;
            builder.https_only(access.is_tls).tls_backend_preconfigured(config)
        };
        #[cfg(not(feature = "tls"))]
        if access.is_tls {
            let why = "this build has no TLS: build it with `--features tls`, or use http://".into();
            return Err(refused(ErrorKind::NotImplemented, why));
        }
        let client = builder
            // The service stands in the cluster: a proxy would only be in the way, and would cut long polls.
            .no_proxy()
            // Nobody may send readers elsewhere, nor the token.
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| refused(ErrorKind::Context, causes(&error)))?;
        if access.token.is_some() && !access.is_tls && !access.is_loopback {
            tracing::warn!(
                url = access.url,
                "the metadata service's token crosses the network where others can read it: use https://"
            );
        }
        Ok(Self { url: access.url, token: access.token, client })
    }

    fn call(&self, call: Call, deadline: Deadline) -> Result<Answer, MetadataError> {
        let (location, attempt) = (self.url.clone(), call.attempt());
        let client_error =
            |cause: String| MetadataError::Client { location: location.clone(), attempt: attempt.clone(), cause };
        let runtime = control_runtime().map_err(|error| client_error(error.to_string()))?;
        let (sender, receiver) = mpsc::sync_channel(1);
        let store = self.clone();
        runtime.spawn(async move {
            // The receiver is gone only if its thread is.
            let _ = sender.send(store.call_until(call, deadline).await);
        });
        // The task keeps the deadline itself; the slack is for a control thread that is held up.
        receiver
            .recv_timeout(deadline.remaining() + Duration::from_secs(1))
            .unwrap_or_else(|_| Err(client_error("the control thread is held up".into())))
    }

    async fn call_until(&self, call: Call, deadline: Deadline) -> Result<Answer, MetadataError> {
        let started = Instant::now();
        let (location, attempt) = (self.url.clone(), call.attempt());
        match tokio::time::timeout_at(deadline.instant().into(), self.try_often(&call)).await {
            Ok(result) => result,
            Err(_) => Err(MetadataError::Late { location, attempt, waited_ms: started.elapsed().as_millis() }),
        }
    }

    /// Tries again when a connection that stood broke, as it does when the server was restarted.
    async fn try_often(&self, call: &Call) -> Result<Answer, MetadataError> {
        let mut tries = 1;
        loop {
            match self.try_once(call).await {
                Err(Trouble::Broken(_)) if tries < TRIES => tokio::time::sleep(BETWEEN_TRIES * tries).await,
                Err(Trouble::Broken(error) | Trouble::Final(error)) => return Err(error),
                Ok(answer) => return Ok(answer),
            }
            tries += 1;
        }
    }

    async fn try_once(&self, call: &Call) -> Result<Answer, Trouble> {
        let mut request = self.client.request(call.method.clone(), call.target(&self.url));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.header());
        }
        if let Some(owner) = &call.owner {
            request = request.header(OWNER_HEADER, &owner.id);
            if call.body.is_some() {
                request = request.header(TTL_HEADER, owner.ttl.as_millis().to_string());
            }
        }
        if let Some(body) = &call.body {
            request = request.header("Content-Type", "application/json").body(body.clone());
        }
        let response = request.send().await.map_err(|error| self.trouble(call, &error))?;
        self.receive(call, response).await
    }

    async fn receive(&self, call: &Call, mut response: Response) -> Result<Answer, Trouble> {
        if response.status().is_redirection() {
            let (location, attempt) = (self.url.clone(), call.attempt());
            let to = response.headers().get(LOCATION).map_or("elsewhere".into(), |to| self.shown(to.as_bytes()));
            let answer = format!("go to {to}; that is not followed: give the service's own address");
            let status = response.status().as_u16();
            return Err(Trouble::Final(MetadataError::Refused { location, attempt, status, answer }));
        }
        let version = response.headers().get(VERSION_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.trouble(call, &error))? {
            if body.len() + chunk.len() > ANSWER_BYTES {
                let (location, attempt) = (self.url.clone(), call.attempt());
                return Err(Trouble::Final(MetadataError::TooLarge { location, attempt, limit_bytes: ANSWER_BYTES }));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status: response.status(), version, body })
    }

    fn trouble(&self, call: &Call, error: &reqwest::Error) -> Trouble {
        let (location, attempt) = (self.url.clone(), call.attempt());
        let cause = causes(error);
        #[cfg(feature = "tls")]
        if let Some(cause) = tls::trouble(error) {
            return Trouble::Final(MetadataError::Tls { location, attempt, cause });
        }
        // Nobody listening does not get better within milliseconds; neither does a request that is wrong.
        if error.is_connect() || error.is_builder() {
            Trouble::Final(MetadataError::Unreachable { location, attempt, cause })
        } else {
            Trouble::Broken(MetadataError::Broken { location, attempt, cause })
        }
    }

    /// The beginning of what a server said, which may repeat the token: it is not believed to keep it.
    fn shown(&self, answer: &[u8]) -> String {
        let text = String::from_utf8_lossy(answer);
        match &self.token {
            Some(token) => shorten(&token.hidden_in(&text)),
            None => shorten(&text),
        }
    }

    fn refused(&self, call: &Call, answer: &Answer) -> MetadataError {
        let (location, attempt) = (self.url.clone(), call.attempt());
        let mut text = self.shown(&answer.body);
        if answer.status == StatusCode::UNAUTHORIZED {
            text.push_str(if self.token.is_some() { access::TOKEN_IS_WRONG } else { access::TOKEN_IS_MISSING });
        }
        match answer.status {
            StatusCode::CONFLICT => MetadataError::Taken { location, attempt, answer: text },
            status => MetadataError::Refused { location, attempt, status: status.as_u16(), answer: text },
        }
    }
}

enum Trouble {
    /// The connection broke; another may work.
    Broken(MetadataError),
    Final(MetadataError),
}

impl MetadataStore for HttpStore {
    fn location(&self) -> String {
        self.url.clone()
    }

    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Versioned>, MetadataError> {
        let call = Call::new(Method::GET, key);
        let answer = self.call(call.clone(), deadline)?;
        match answer.status {
            StatusCode::OK => match String::from_utf8(answer.body) {
                Ok(text) => Ok(Some(Versioned { text, version: answer.version })),
                Err(error) => Err(MetadataError::NotText {
                    location: self.url.clone(),
                    attempt: call.attempt(),
                    received: self.shown(error.as_bytes()),
                }),
            },
            StatusCode::NOT_FOUND if is_miss(&answer) => Ok(None),
            _ => Err(self.refused(&call, &answer)),
        }
    }

    fn put(&self, key: &str, text: &str, owner: Option<&Ownership>, deadline: Deadline) -> Result<(), MetadataError> {
        let call = Call { body: Some(text.to_owned()), owner: owner.cloned(), ..Call::new(Method::PUT, key) };
        let answer = self.call(call.clone(), deadline)?;
        if answer.status == StatusCode::OK { Ok(()) } else { Err(self.refused(&call, &answer)) }
    }

    fn remove(&self, key: &str, owner: Option<&Ownership>, deadline: Deadline) -> Result<bool, MetadataError> {
        let call = Call { owner: owner.cloned(), ..Call::new(Method::DELETE, key) };
        let answer = self.call(call.clone(), deadline)?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(&call, &answer)),
        }
    }

    fn list(&self, prefix: &str, deadline: Deadline) -> Result<Vec<String>, MetadataError> {
        let mut keys: Vec<String> = Vec::new();
        let mut received_bytes = 0;
        let mut call = Call { subject: Subject::KeysThatBegin(prefix.to_owned()), ..Call::new(Method::GET, "") };
        loop {
            let answer = self.call(call.clone(), deadline)?;
            if answer.status != StatusCode::OK {
                return Err(self.refused(&call, &answer));
            }
            received_bytes += answer.body.len();
            if received_bytes > LISTING_BYTES {
                let (location, attempt) = (self.url.clone(), call.attempt());
                return Err(MetadataError::TooLarge { location, attempt, limit_bytes: LISTING_BYTES });
            }
            let page: Page = serde_json::from_slice(&answer.body).map_err(|_| MetadataError::NotText {
                location: self.url.clone(),
                attempt: call.attempt(),
                received: self.shown(&answer.body),
            })?;
            keys.extend(page.keys.into_iter().map(|listed| listed.key));
            // A page that does not lead on ends it, whatever it says.
            match page.next_after.filter(|after| keys.last() == Some(after)) {
                Some(after) => call.query = format!("&after={}", percent_encoded(&after)),
                None => return Ok(keys),
            }
        }
    }

    /// Long polls, one after the other. Without a known version the server is one that cannot.
    fn watch(&self, key: &str, known: Option<u64>, on_change: OnChange) -> Option<Watch> {
        let known = known?;
        let runtime = control_runtime().ok()?;
        let (store, key) = (self.clone(), key.to_owned());
        let task = runtime.spawn(async move { store.poll_long(&key, known, &on_change).await });
        Some(Watch::new(move || task.abort()))
    }
}

impl HttpStore {
    async fn poll_long(&self, key: &str, mut known: u64, on_change: &OnChange) {
        let mut pause = FIRST_PAUSE;
        loop {
            let query = format!("&wait_ms={}&version={known}", LONG_POLL.as_millis());
            let call = Call { query, ..Call::new(Method::GET, key) };
            let started = Instant::now();
            let result = self.call_until(call, Deadline::after(LONG_POLL + LONG_POLL_SLACK)).await;
            let good = |answer: &Answer| matches!(answer.status, StatusCode::OK | StatusCode::NOT_FOUND);
            match result {
                Ok(answer) if good(&answer) => {
                    let Some(version) = answer.version else {
                        tracing::debug!(url = self.url, key, "the metadata service does not count versions any more");
                        return;
                    };
                    if version != known {
                        known = version;
                        pause = FIRST_PAUSE;
                        on_change();
                        continue;
                    }
                    if started.elapsed() >= LONG_POLL / 2 {
                        pause = FIRST_PAUSE;
                        continue;
                    }
                    // A server that does not wait (because it is stopping, or never does) is not asked in a loop.
                }
                Ok(answer) => tracing::debug!(url = self.url, key, status = %answer.status, "watching failed"),
                Err(error) => tracing::debug!(url = self.url, key, %error, "watching failed"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

/// Whether "not found" is about the key. A server that serves nothing at this path says something else.
fn is_miss(answer: &Answer) -> bool {
    let text = String::from_utf8_lossy(&answer.body).to_ascii_lowercase();
    answer.version.is_some() || text.is_empty() || text.contains("not found")
}

/// The innermost cause, which is what the operating system said; the layers around it only say that they failed.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// A key as it stands in a query: everything but letters, digits and `-._~` is encoded.
fn percent_encoded(key: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(key.len() + 16);
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_percent_encoded() {
        assert_eq!(percent_encoded("mooncake/ram/10.0.0.7:8081"), "mooncake%2Fram%2F10.0.0.7%3A8081");
        assert_eq!(percent_encoded("a b&c=ü%"), "a%20b%26c%3D%C3%BC%25");
    }
}
