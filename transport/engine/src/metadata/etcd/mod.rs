//! A client of etcd: the same keys and the same JSON as the HTTP service has.
//!
//! An owner is a lease, whose id follows from the owner's: each put renews it, what was put under it goes when it ends,
//! and whose a key is can be asked within a transaction. The rules are those of the HTTP service: a server name that a
//! live owner published with another value is taken; the same value is taken over by anybody, because a node that was
//! killed and restarted finds its predecessor's lease still there; all other keys belong to whoever wrote last.
//!
//! A key's version is its modification revision. A watch reads the key first and watches from the next revision on, each
//! time anew when the stream ended for whatever reason, so that neither compaction nor a restart nor an etcd that lost its
//! data makes it miss that the key is different now.
//!
//! - [`address`]: where etcd is, and how it is entered.
//! - [`cluster`]: its endpoints, of which one answers.

mod address;
mod cluster;

use super::{MetadataError, MetadataStore, OnChange, Ownership, Versioned, Watch, shorten};
use crate::control_runtime::control_runtime;
use crate::deadline::Deadline;
use crate::error::EngineError;
use address::Address;
use cluster::{Cluster, Trouble};
use etcd_client::{
    Client, Compare, CompareOp, Error, EventType, GetOptions, KeyValue, LeaseGrantOptions, PutOptions, Txn, TxnOp,
    WatchOptions,
};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tonic::Code;

/// How often a transaction is tried whose key others change meanwhile.
const RACES: u32 = 8;
/// Keys in one answer of a listing.
const PAGE_KEYS: i64 = 1000;
/// The longest listing that is taken, in bytes of its keys.
const LISTING_BYTES: usize = 64 << 20;
/// The one call of a watch that has an end.
const WATCH_START: Duration = Duration::from_secs(10);
/// Pauses of a watch after failures: the first, doubling up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// The client.
pub struct EtcdStore {
    cluster: Arc<Cluster>,
}

impl EtcdStore {
    /// A client of the etcd at this address (see [`address`]). Nothing is connected yet.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidArgument`] for an address that is none, and for files that cannot be read.
    pub fn new(address: &str) -> Result<Self, EngineError> {
        let address = Address::parse(address, |name| std::env::var(name).ok())?;
        Ok(Self { cluster: Arc::new(Cluster::new(&address)?) })
    }

    /// Runs an operation on the control thread and waits for it.
    fn call<T, F>(
        &self,
        attempt: String,
        deadline: Deadline,
        operation: impl Fn(Client) -> F + Send + Sync + 'static,
    ) -> Result<T, MetadataError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Trouble>> + Send,
    {
        let client_error = |cause: String| {
            let (location, attempt) = (self.cluster.location.clone(), attempt.clone());
            MetadataError::Client { location, attempt, cause }
        };
        let runtime = control_runtime().map_err(|error| client_error(error.to_string()))?;
        let (sender, receiver) = mpsc::sync_channel(1);
        let (cluster, task_attempt) = (Arc::clone(&self.cluster), attempt.clone());
        runtime.spawn(async move {
            // The receiver is gone only if its thread is.
            let _ = sender.send(cluster.call(&task_attempt, deadline, operation).await);
        });
        // The task keeps the deadline itself; the slack is for a control thread that is held up.
        receiver
            .recv_timeout(deadline.remaining() + Duration::from_secs(1))
            .unwrap_or_else(|_| Err(client_error("the control thread is held up".into())))
    }
}

impl MetadataStore for EtcdStore {
    fn location(&self) -> String {
        self.cluster.location.clone()
    }

    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Versioned>, MetadataError> {
        let (attempt, location) = (format!("GET of {key}"), self.location());
        let key = key.to_owned();
        let unreadable = Unreadable { location, attempt: attempt.clone() };
        self.call(attempt, deadline, move |client| {
            let (key, unreadable) = (key.clone(), unreadable.clone());
            async move {
                let (there, _) = read(&client, &key).await?;
                there.map(|there| unreadable.versioned(there)).transpose()
            }
        })
    }

    fn put(&self, key: &str, text: &str, owner: Option<&Ownership>, deadline: Deadline) -> Result<(), MetadataError> {
        let put =
            Put { location: self.location(), key: key.to_owned(), text: text.to_owned(), lease: owner.map(Lease::of) };
        self.call(put.attempt(), deadline, move |client| {
            let put = put.clone();
            async move { put.run(client).await }
        })
    }

    fn remove(&self, key: &str, owner: Option<&Ownership>, deadline: Deadline) -> Result<bool, MetadataError> {
        let (attempt, location) = (format!("DELETE of {key}"), self.location());
        let (key, lease) = (key.to_owned(), owner.map(Lease::of));
        self.call(attempt.clone(), deadline, move |client| {
            let (key, location, attempt) = (key.clone(), location.clone(), attempt.clone());
            async move { remove(client, &key, lease, location, attempt).await }
        })
    }

    fn list(&self, prefix: &str, deadline: Deadline) -> Result<Vec<String>, MetadataError> {
        let (attempt, location) = (format!("listing of {prefix}"), self.location());
        let prefix = prefix.to_owned();
        self.call(attempt.clone(), deadline, move |client| {
            let (prefix, location, attempt) = (prefix.clone(), location.clone(), attempt.clone());
            async move { list(client, &prefix, location, attempt).await }
        })
    }

    fn watch(&self, key: &str, known: Option<u64>, on_change: OnChange) -> Option<Watch> {
        let runtime = control_runtime().ok()?;
        let (cluster, key) = (Arc::clone(&self.cluster), key.to_owned());
        // A missing key has revision 0.
        let task = runtime.spawn(async move { watch(&cluster, &key, known.unwrap_or(0), &on_change).await });
        Some(Watch::new(move || task.abort()))
    }
}

/// An owner's lease.
#[derive(Debug, Clone, Copy)]
struct Lease {
    id: i64,
    ttl_seconds: i64,
}

impl Lease {
    fn of(owner: &Ownership) -> Self {
        // Always the same within one process, and that is as long as an owner lives.
        let mut hasher = DefaultHasher::new();
        owner.id.hash(&mut hasher);
        // Positive: 0 means no lease.
        let id = (hasher.finish() >> 1).max(1).cast_signed();
        // etcd counts whole seconds, and makes them more where they are fewer than an election takes.
        let ttl_seconds = i64::try_from(owner.ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        Self { id, ttl_seconds }
    }

    /// Gives the owner its full time once more.
    async fn renew(self, client: &mut Client) -> Result<(), Trouble> {
        match client.lease_keep_alive(self.id).await {
            Ok(_) => Ok(()),
            Err(Error::LeaseKeepAliveError(_)) => self.grant(client).await,
            Err(Error::GRpcStatus(status)) if is_lease_missing(&status) => self.grant(client).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn grant(self, client: &mut Client) -> Result<(), Trouble> {
        let options = LeaseGrantOptions::new().with_id(self.id);
        match client.lease_grant(self.ttl_seconds, Some(options)).await {
            Ok(_) => Ok(()),
            // An earlier attempt whose answer was lost.
            Err(Error::GRpcStatus(status)) if status.message().contains("lease already exists") => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_lease_missing(status: &tonic::Status) -> bool {
    status.code() == Code::NotFound && status.message().contains("lease not found")
}

/// What is to become of a key that is there.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is as it should be.
    Leave,
    Write,
    /// It is another's.
    Refuse,
}

/// A value to be written.
#[derive(Debug, Clone)]
struct Put {
    location: String,
    key: String,
    text: String,
    lease: Option<Lease>,
}

impl Put {
    fn attempt(&self) -> String {
        format!("PUT of {}", self.key)
    }

    fn lease_id(&self) -> i64 {
        self.lease.map_or(0, |lease| lease.id)
    }

    fn step(&self, text: &[u8], lease_id: i64) -> Step {
        if text == self.text.as_bytes() {
            // Whoever publishes the same once more without saying who it is takes nothing from the owner.
            let is_kept = self.lease.is_none() || lease_id == self.lease_id();
            return if is_kept { Step::Leave } else { Step::Write };
        }
        let is_ours = self.lease.is_some() && lease_id == self.lease_id();
        if self.key.contains("rpc_meta/") && !is_ours { Step::Refuse } else { Step::Write }
    }

    async fn run(&self, mut client: Client) -> Result<(), Trouble> {
        if let Some(lease) = self.lease {
            lease.renew(&mut client).await?;
        }
        for _ in 0..RACES {
            let (there, _) = read(&client, &self.key).await?;
            match there.as_ref().map_or(Step::Write, |there| self.step(there.value(), there.lease())) {
                Step::Leave => return Ok(()),
                Step::Refuse => {
                    let answer = taken(&mut client, there.as_ref().map_or(0, KeyValue::lease), &self.key).await;
                    let (location, attempt) = (self.location.clone(), self.attempt());
                    return Err(Trouble::Final(MetadataError::Taken { location, attempt, answer }));
                }
                Step::Write => {}
            }
            let options = PutOptions::new().with_lease(self.lease_id());
            let write = TxnOp::put(self.key.as_str(), self.text.as_str(), Some(options));
            match client.txn(unchanged(&self.key, there.as_ref()).and_then([write])).await {
                Ok(answer) if answer.succeeded() => return Ok(()),
                // Someone else was faster: look again.
                Ok(_) => {}
                // It expired between the two.
                Err(Error::GRpcStatus(status)) if is_lease_missing(&status) => {
                    if let Some(lease) = self.lease {
                        lease.grant(&mut client).await?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(raced(&self.key))
    }
}

fn raced(key: &str) -> Trouble {
    Trouble::Broken(format!("{key} was changed by others {RACES} times meanwhile"))
}

/// A transaction that happens only if the key is as it was read.
fn unchanged(key: &str, there: Option<&KeyValue>) -> Txn {
    // A missing key has revision 0.
    let revision = there.map_or(0, KeyValue::mod_revision);
    Txn::new().when([Compare::mod_revision(key, CompareOp::Equal, revision)])
}

/// The key, and the revision of etcd at which it was so.
async fn read(client: &Client, key: &str) -> Result<(Option<KeyValue>, i64), Trouble> {
    let mut answer = client.kv_client().get(key, None).await?;
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    Ok((answer.take_kvs().into_iter().next(), revision))
}

/// Whose a key is, and what to do about that. How long the owner lives is told where etcd tells it.
async fn taken(client: &mut Client, lease_id: i64, key: &str) -> String {
    if lease_id == 0 {
        return format!(
            "this server name is taken by a node that published it without a lease; give this node another name, or \
             delete the key {key} if that node is gone"
        );
    }
    let ttl = match client.lease_time_to_live(lease_id, None).await {
        Ok(lease) if lease.ttl() >= 0 => format!(", which expires in {} s unless it renews", lease.ttl()),
        _ => String::new(),
    };
    format!(
        "this server name is taken by another node (lease {lease_id:x}){ttl}; give this node another name, or end the \
         other and wait for that"
    )
}

async fn remove(
    mut client: Client,
    key: &str,
    lease: Option<Lease>,
    location: String,
    attempt: String,
) -> Result<bool, Trouble> {
    for _ in 0..RACES {
        let (Some(there), _) = read(&client, key).await? else { return Ok(false) };
        if lease.is_some_and(|lease| ![0, lease.id].contains(&there.lease())) {
            let answer =
                format!("another node (lease {:x}) has published this since; it is not removed", there.lease());
            return Err(Trouble::Final(MetadataError::Taken { location, attempt, answer }));
        }
        if client.txn(unchanged(key, Some(&there)).and_then([TxnOp::delete(key, None)])).await?.succeeded() {
            return Ok(true);
        }
    }
    Err(raced(key))
}

async fn list(client: Client, prefix: &str, location: String, attempt: String) -> Result<Vec<String>, Trouble> {
    let mut keys: Vec<String> = Vec::new();
    let mut received_bytes = 0;
    let mut from = prefix.as_bytes().to_vec();
    let end = after_all_with(prefix.as_bytes());
    // etcd takes a key of one zero byte for its first.
    if from.is_empty() {
        from.push(0);
    }
    loop {
        let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE_KEYS).with_keys_only();
        let mut answer = client.kv_client().get(from.clone(), Some(options)).await?;
        let page = answer.take_kvs();
        let Some(last) = page.last() else { return Ok(keys) };
        from = [last.key(), &[0]].concat();
        for listed in page {
            received_bytes += listed.key().len();
            // What is no text is nobody's segment.
            keys.extend(String::from_utf8(listed.into_key_value().0));
        }
        if received_bytes > LISTING_BYTES {
            return Err(Trouble::Final(MetadataError::TooLarge { location, attempt, limit_bytes: LISTING_BYTES }));
        }
        if !answer.more() {
            return Ok(keys);
        }
    }
}

/// The first key behind all that begin with this prefix; etcd takes a zero byte for the end of everything.
fn after_all_with(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

/// Tells of changes until it is aborted.
async fn watch(cluster: &Cluster, key: &str, mut known: u64, on_change: &OnChange) {
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = format!("watch of {key}");
        let started = cluster.call(&attempt, Deadline::after(WATCH_START), |client| async move {
            let (there, revision) = read(&client, key).await?;
            let options = WatchOptions::new().with_start_revision(revision + 1);
            let stream = client.watch_client().watch(key, Some(options)).await?;
            Ok((there.as_ref().map_or(0, version), stream))
        });
        let why = match started.await {
            Ok((now, mut stream)) => {
                if now != known {
                    known = now;
                    on_change();
                }
                loop {
                    match stream.message().await {
                        Ok(Some(answer)) if answer.canceled() => break shorten(answer.cancel_reason()),
                        Ok(Some(answer)) => {
                            pause = FIRST_PAUSE;
                            let Some(last) = answer.events().last() else { continue };
                            known = match last.event_type() {
                                EventType::Put => last.kv().map_or(0, version),
                                EventType::Delete => 0,
                            };
                            on_change();
                        }
                        Ok(None) => break "the stream ended".to_owned(),
                        Err(error) => break shorten(&error.to_string()),
                    }
                }
            }
            Err(error) => error.to_string(),
        };
        tracing::debug!(etcd = cluster.location, key, why, "watching begins anew");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

fn version(there: &KeyValue) -> u64 {
    // Revisions count from 1.
    there.mod_revision().cast_unsigned()
}

/// For the complaint about a value that is no text.
#[derive(Debug, Clone)]
struct Unreadable {
    location: String,
    attempt: String,
}

impl Unreadable {
    fn versioned(self, there: KeyValue) -> Result<Versioned, Trouble> {
        let version = Some(version(&there));
        match String::from_utf8(there.into_key_value().1) {
            Ok(text) => Ok(Versioned { text, version }),
            Err(error) => {
                let received = shorten(&String::from_utf8_lossy(error.as_bytes()));
                let (location, attempt) = (self.location, self.attempt);
                Err(Trouble::Final(MetadataError::NotText { location, attempt, received }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, text: &str, lease: Option<i64>) -> Put {
        let lease = lease.map(|id| Lease { id, ttl_seconds: 1 });
        Put { location: String::new(), key: key.into(), text: text.into(), lease }
    }

    #[test]
    fn a_server_name_is_its_owners() {
        let name = |text, lease| put("mooncake/rpc_meta/a", text, lease);
        assert_eq!(name("same", Some(1)).step(b"same", 1), Step::Leave);
        assert_eq!(name("same", Some(1)).step(b"same", 2), Step::Write);
        assert_eq!(name("same", Some(1)).step(b"same", 0), Step::Write);
        assert_eq!(name("new", Some(1)).step(b"old", 1), Step::Write);
        assert_eq!(name("new", Some(1)).step(b"old", 2), Step::Refuse);
        assert_eq!(name("new", Some(1)).step(b"old", 0), Step::Refuse);
        assert_eq!(name("same", None).step(b"same", 2), Step::Leave);
        assert_eq!(name("new", None).step(b"old", 2), Step::Refuse);
        assert_eq!(name("new", None).step(b"old", 0), Step::Refuse);
    }

    #[test]
    fn other_keys_belong_to_whoever_wrote_last() {
        let segment = |text, lease| put("mooncake/ram/a", text, lease);
        assert_eq!(segment("same", Some(1)).step(b"same", 1), Step::Leave);
        assert_eq!(segment("same", Some(1)).step(b"same", 2), Step::Write);
        assert_eq!(segment("same", None).step(b"same", 2), Step::Leave);
        assert_eq!(segment("new", Some(1)).step(b"old", 2), Step::Write);
        assert_eq!(segment("new", None).step(b"old", 2), Step::Write);
    }

    #[test]
    fn leases_follow_from_owners() {
        let of = |id: &str, ms| Lease::of(&Ownership { id: id.into(), ttl: Duration::from_millis(ms) });
        assert_eq!(of("a", 3).id, of("a", 3).id);
        assert_ne!(of("a", 3).id, of("b", 3).id);
        assert!(of("a", 3).id > 0);
        assert_eq!([of("a", 3), of("a", 1000), of("a", 1001)].map(|lease| lease.ttl_seconds), [1, 1, 2]);
    }

    #[test]
    fn prefixes_end() {
        assert_eq!(after_all_with(b"mooncake/"), b"mooncake0");
        assert_eq!(after_all_with(b"a\xff\xff"), b"b");
        assert_eq!(after_all_with(b"\xff"), [0]);
        assert_eq!(after_all_with(b""), [0]);
    }
}
