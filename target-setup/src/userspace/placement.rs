//! Which reactor an I/O queue lives on: the one with the fewest.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many I/O queues live on each reactor.
#[derive(Debug)]
pub(crate) struct Placement {
    queues: Vec<AtomicUsize>,
}

impl Placement {
    /// For so many reactors, at least one.
    pub(crate) fn new(reactors: usize) -> Self {
        Self { queues: (0..reactors.max(1)).map(|_| AtomicUsize::new(0)).collect() }
    }

    /// How many reactors there are.
    pub(crate) fn reactors(&self) -> usize {
        self.queues.len()
    }

    /// The reactor for one more queue, which counts there from here on.
    pub(crate) fn choose(&self) -> usize {
        // Two that choose at once may choose the same; that is no harm.
        let load = |index: &usize| self.queues[*index].load(Ordering::Relaxed);
        let index = (0..self.queues.len()).min_by_key(load).unwrap_or(0);
        self.queues[index].fetch_add(1, Ordering::Relaxed);
        index
    }

    /// A queue is gone from a reactor.
    pub(crate) fn leave(&self, index: usize) {
        self.queues[index].fetch_sub(1, Ordering::Relaxed);
    }
}
