//! Metadata: where engines publish what they offer, and find what others offer.
//!
//! - [`memory`]: within one process, for tests and single-process use.
//! - [`http`]: a client of the original's HTTP service, and of this project's, which can do more.
//! - `etcd`, with the feature of that name: a client of etcd, with leases, transactions and watches.
//!
//! What comes in and goes out are keys and texts; what the texts mean is the engine's business.

#[cfg(feature = "etcd")]
pub mod etcd;
pub mod http;
pub mod memory;
pub mod secret_file;

use crate::deadline::Deadline;
use crate::error::{EngineError, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

/// A value, and which version of it this is where the service counts versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub text: String,
    /// The version.
    pub version: Option<u64>,
}

/// Who publishes. What an owner published expires when it has not published anything for `ttl`, where the service
/// knows of owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Unique to one run of one engine. Visible ASCII.
    pub id: String,
    /// How long it lives without a sign.
    pub ttl: Duration,
}

/// Keeps a watch going; dropping it ends the watch.
pub struct Watch {
    stop: Option<Box<dyn FnOnce() + Send>>,
}

impl Watch {
    /// A watch that `stop` ends.
    pub fn new(stop: impl FnOnce() + Send + 'static) -> Self {
        Self { stop: Some(Box::new(stop)) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

/// Called, on any thread, when a watched key may have changed. Must not block.
pub type OnChange = Arc<dyn Fn() + Send + Sync>;

/// A metadata service. Every call returns by its deadline.
pub trait MetadataStore: Send + Sync {
    /// What it is and where, for people.
    fn location(&self) -> String;

    /// Reads a key; `None` when there is none.
    ///
    /// # Errors
    /// When the service cannot be reached in time or refuses.
    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Versioned>, MetadataError>;

    /// Writes a key. With an owner, the write also renews all that this owner has published.
    ///
    /// # Errors
    /// [`MetadataError::Taken`] when another live owner holds the key and does not share it; otherwise as for
    /// [`MetadataStore::get`].
    fn put(&self, key: &str, text: &str, owner: Option<&Ownership>, deadline: Deadline) -> Result<(), MetadataError>;

    /// Removes a key; with an owner, only when it is not another's. Returns whether it was there.
    ///
    /// # Errors
    /// As for [`MetadataStore::put`].
    fn remove(&self, key: &str, owner: Option<&Ownership>, deadline: Deadline) -> Result<bool, MetadataError>;

    /// All keys that begin with `prefix`, in order.
    ///
    /// # Errors
    /// As for [`MetadataStore::get`]; [`MetadataError::Refused`] from a service that cannot list, as the original's.
    fn list(&self, prefix: &str, deadline: Deadline) -> Result<Vec<String>, MetadataError>;

    /// Calls `on_change` whenever the key's version is not `known` any more. `None` when the service cannot tell.
    fn watch(&self, key: &str, known: Option<u64>, on_change: OnChange) -> Option<Watch>;
}

/// Why a metadata service did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// No connection; nothing was sent.
    #[error(
        "{attempt} at the metadata service {location}: {cause}: is it running there, and can this machine reach it?"
    )]
    Unreachable {
        /// The service.
        location: String,
        /// The call and its key.
        attempt: String,
        /// What the operating system or the library says.
        cause: String,
    },
    /// The connection broke, again and again.
    #[error("{attempt} at the metadata service {location}: the connection broke: {cause}")]
    Broken {
        /// The service.
        location: String,
        /// The call and its key.
        attempt: String,
        /// What the operating system or the library says.
        cause: String,
    },
    /// The service did not prove to be the one that is meant, or does not speak TLS. Nothing was sent.
    #[error("{attempt} at the metadata service {location}: no TLS connection that can be trusted: {cause}")]
    Tls {
        /// The service.
        location: String,
        /// The call and its key.
        attempt: String,
        /// What is wrong with the certificate or the handshake.
        cause: String,
    },
    /// No answer in time.
    #[error("{attempt} at the metadata service {location}: no whole answer within {waited_ms} ms")]
    Late {
        /// The service.
        location: String,
        /// The call and its key.
        attempt: String,
        /// How long it was waited for, in milliseconds.
        waited_ms: u128,
    },
    /// An answer that is neither yes nor "no such key".
    #[error("{attempt} at the metadata service {location}: it answered {status}: {answer}")]
    Refused {
        /// The service.
        location: String,
        /// The call and its key.
        attempt: String,
        /// The HTTP status; the gRPC code of an etcd.
        status: u16,
        /// The beginning of the answer.
        answer: String,
    },
    /// Another live owner holds the key.
    #[error("{attempt} at the metadata service {location}: {answer}")]
    Taken {
        /// The service.
        location: String,
        /// The call and its key.
        attempt: String,
        /// What it says about the other owner.
        answer: String,
    },
    /// An answer longer than any description.
    #[error("{attempt} at the metadata service {location}: its answer is longer than {limit_bytes} bytes")]
    TooLarge {
        /// The service.
        location: String,
        /// The call and its key.
        attempt: String,
        /// The bound.
        limit_bytes: usize,
    },
    /// An answer that is not text, or not the JSON that it should be.
    #[error("{attempt} at the metadata service {location}: its answer cannot be read: {received}")]
    NotText {
        /// The service.
        location: String,
        /// The call and its key.
        attempt: String,
        /// The beginning of the answer, as far as it can be shown.
        received: String,
    },
    /// The client itself cannot work here.
    #[error("{attempt} at the metadata service {location}: {cause}")]
    Client {
        /// The service.
        location: String,
        /// The call and its key.
        attempt: String,
        /// What is wrong.
        cause: String,
    },
}

impl MetadataError {
    /// Whether the service may have done it all the same.
    #[must_use]
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Tls { .. } | Self::Taken { .. } | Self::Client { .. } => false,
            Self::Refused { status, .. } => *status >= 500,
            _ => true,
        }
    }
}

impl From<MetadataError> for EngineError {
    fn from(error: MetadataError) -> Self {
        let kind = match &error {
            MetadataError::NotText { .. } => ErrorKind::MalformedJson,
            _ => ErrorKind::Metadata,
        };
        Self::new(kind, error.to_string())
    }
}

/// The beginning of a text that came from outside, made safe to print.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST_CHARS: usize = 160;
    let mut short: String = text.chars().take(LONGEST_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST_CHARS).is_some() {
        short.push('…');
    }
    short.trim().to_owned()
}

/// Where an engine finds its metadata service.
#[derive(Clone)]
pub enum MetadataSource {
    /// By address: `http://host:port/path`, `https://host:port/path` (with the feature `tls`), `etcd://host:port` (with
    /// the feature `etcd`), or `memory:name` for a service within this process.
    Address(String),
    /// A service that the caller made.
    Store(Arc<dyn MetadataStore>),
}

impl From<&str> for MetadataSource {
    fn from(address: &str) -> Self {
        Self::Address(address.into())
    }
}

impl From<String> for MetadataSource {
    fn from(address: String) -> Self {
        Self::Address(address)
    }
}

impl<S: MetadataStore + 'static> From<Arc<S>> for MetadataSource {
    fn from(store: Arc<S>) -> Self {
        Self::Store(store)
    }
}

impl From<Arc<dyn MetadataStore>> for MetadataSource {
    fn from(store: Arc<dyn MetadataStore>) -> Self {
        Self::Store(store)
    }
}

impl MetadataSource {
    /// Makes the client. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an address that is none, [`ErrorKind::NotImplemented`] for a service that this
    /// build has no client for.
    pub fn open(self) -> Result<Arc<dyn MetadataStore>, EngineError> {
        match self {
            Self::Store(store) => Ok(store),
            Self::Address(address) => open_address(address.trim()),
        }
    }
}

fn open_address(address: &str) -> Result<Arc<dyn MetadataStore>, EngineError> {
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => match address.strip_prefix("memory:") {
            Some(name) => ("memory".into(), name),
            // As in the original, a bare `host:port` is an etcd endpoint.
            None => ("etcd".into(), address),
        },
    };
    let shown = without_secrets(address);
    let refused = |kind, why: &str| Err(EngineError::new(kind, format!("metadata service '{shown}': {why}")));
    match scheme.as_str() {
        "memory" => Ok(memory::MemoryStore::named(rest)),
        _ if rest.is_empty() => refused(
            ErrorKind::InvalidArgument,
            "no address is given: use http://host:port/metadata, or memory:name within one process",
        ),
        "http" | "https" => Ok(Arc::new(http::HttpStore::new(address)?)),
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => Ok(Arc::new(etcd::EtcdStore::new(address)?)),
        #[cfg(not(feature = "etcd"))]
        "etcd" | "etcds" => refused(
            ErrorKind::NotImplemented,
            "that is an etcd endpoint, and this build has no etcd client: build it with `--features etcd`, or use \
             http://host:port/metadata",
        ),
        "redis" | "p2phandshake" => refused(ErrorKind::NotImplemented, "this build has no client for it: use http://"),
        other => refused(ErrorKind::InvalidArgument, &format!("'{other}' is not a kind of metadata service")),
    }
}

/// The address without what may be secret in it: `etcd://user:password@host/path?option=value` becomes
/// `etcd://user@host/path?…`, and `http://user:password@host/path` becomes `http://…@host/path`.
fn without_secrets(address: &str) -> String {
    let (address, options) = match address.split_once('?') {
        Some((address, _)) => (address, "?…"),
        None => (address, ""),
    };
    let shown = address.split_once("://").and_then(|(scheme, rest)| {
        if scheme.to_ascii_lowercase().starts_with("http") {
            // No user belongs there, but somebody may have meant one, or a token, and with a `/` in the password.
            return rest.rsplit_once('@').map(|(_, place)| format!("{scheme}://…@{place}"));
        }
        let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = place.rsplit_once('@')?;
        Some(format!("{scheme}://{}@{host}{path}", user.split(':').next().unwrap_or_default()))
    });
    format!("{}{options}", shown.as_deref().unwrap_or(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        assert_eq!(open_address("memory:x").unwrap().location(), "memory:x");
        assert_eq!(open_address("http://a:1/metadata").unwrap().location(), "http://a:1/metadata");
        #[cfg(feature = "etcd")]
        for address in ["etcd://127.0.0.1:2379", "127.0.0.1:2379"] {
            assert_eq!(open_address(address).unwrap().location(), "etcd://127.0.0.1:2379");
        }
        #[cfg(not(feature = "etcd"))]
        for address in ["etcd://127.0.0.1:2379", "127.0.0.1:2379", "etcds://a:1"] {
            let error = open_address(address).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::NotImplemented);
            assert!(error.to_string().contains("--features etcd"), "{error}");
        }
        for (address, kind) in [
            #[cfg(not(feature = "tls"))]
            ("https://a/metadata", ErrorKind::NotImplemented),
            ("redis://a:1", ErrorKind::NotImplemented),
            ("http://", ErrorKind::InvalidArgument),
            ("etcd://", ErrorKind::InvalidArgument),
            ("", ErrorKind::InvalidArgument),
            ("gopher://a", ErrorKind::InvalidArgument),
            ("http://a b/", ErrorKind::InvalidArgument),
        ] {
            let error = open_address(address).err().unwrap_or_else(|| panic!("{address} was taken"));
            assert_eq!(error.kind(), kind, "{address}: {error}");
            assert!(error.to_string().contains(address), "{error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_secrets("etcd://u:p@w@a:1,b:2/x?ca=/y"), "etcd://u@a:1,b:2/x?…");
        assert_eq!(without_secrets("http://u:p@a:1/m"), "http://…@a:1/m");
        assert_eq!(without_secrets("HTTP://u:p/w@a:1/m"), "HTTP://…@a:1/m");
        assert_eq!(without_secrets("https://token@a:1"), "https://…@a:1");
        assert_eq!(without_secrets("a:1?password=p"), "a:1?…");
        for address in ["http://a:1/m", "a:1", "etcd://u@a:1"] {
            assert_eq!(without_secrets(address), address);
        }
    }

    #[test]
    fn what_came_from_outside_is_shortened_and_printable() {
        assert_eq!(shorten("a\x1b[1m\nb"), "a [1m b");
        let long = shorten(&"é".repeat(1000));
        assert_eq!(long.chars().count(), 161);
    }
}
