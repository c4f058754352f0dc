//! What the server bounds, and by how much.

use std::time::Duration;

/// The bounds of a metadata server. The defaults suit a cluster of a thousand nodes; tests make them small.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a key. Keys name a segment by its server name; file system paths do not stand in them.
    pub key_bytes: usize,
    /// Bytes of one value. A segment of 16,384 files with long paths has about 4 MiB.
    pub value_bytes: usize,
    /// Entries altogether.
    pub entries: usize,
    /// Bytes of keys and values altogether; they are all kept in memory.
    pub total_bytes: u64,
    /// Bytes of request bodies being received or written at one time; more wait their turn.
    pub bodies_bytes: usize,
    /// Open connections. The next one is told so and closed.
    pub connections: usize,
    /// Readers that wait for a change.
    pub waiters: usize,
    /// The longest wait for a change that a reader can ask for.
    pub wait: Duration,
    /// Within this time a request's head must have come (so an idle connection is closed after it), and once more
    /// its body.
    pub receive: Duration,
    /// For this long a peer may leave an answer unread.
    pub send: Duration,
    /// The longest time that an owner can live without renewing.
    pub ttl: Duration,
    /// Keys in one page of a listing.
    pub page_keys: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes: 1024,
            value_bytes: 4 << 20,
            entries: 65_536,
            total_bytes: 256 << 20,
            bodies_bytes: 64 << 20,
            connections: 4096,
            waiters: 2048,
            wait: Duration::from_secs(60),
            receive: Duration::from_secs(10),
            send: Duration::from_secs(30),
            ttl: Duration::from_secs(24 * 3600),
            page_keys: 1000,
        }
    }
}
