//! Connections of those who have not shown who they are: no queue yet, a host that owes its proof, or the discovery service,
//! which everyone may ask. They are counted apart from all others, so that however many come and do nothing, hosts still get
//! in: where there are too many, the oldest has to go.

use super::limits;
use super::mailbox::ConnectionKey;
use std::collections::VecDeque;

/// Those of one reactor, the oldest first.
#[derive(Debug)]
pub(crate) struct Strangers {
    keys: VecDeque<ConnectionKey>,
    max: usize,
}

impl Strangers {
    /// A reactor's share, where there are so many.
    pub(crate) fn new(reactors: usize) -> Self {
        Self { keys: VecDeque::new(), max: (limits::MAX_STRANGERS / reactors.max(1)).max(1) }
    }

    /// One more. Returns the one that has to go for it.
    pub(crate) fn enter(&mut self, key: ConnectionKey) -> Option<ConnectionKey> {
        self.keys.push_back(key);
        if self.keys.len() > self.max { self.keys.pop_front() } else { None }
    }

    /// This one has shown who it is, or is gone.
    pub(crate) fn leave(&mut self, key: ConnectionKey) {
        if let Some(at) = self.keys.iter().position(|&there| there == key) {
            self.keys.remove(at);
        }
    }
}
