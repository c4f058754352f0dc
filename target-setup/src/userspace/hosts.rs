//! What each host did, over all its controllers, also those that are gone: what a reader of counters sees never falls.

use super::counters::{IoCounters, count};
use super::limits;
use crate::desired::AllowedHosts;
use crate::driver::{HostStatus, IoTotals};
use nvferry_wire::Nqn;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One host, or all that are not told apart.
#[derive(Default)]
pub(crate) struct HostRecord {
    connects: AtomicU64,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    live: Vec<Arc<IoCounters>>,
    /// Of queues that have gone.
    past: IoTotals,
}

impl HostRecord {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // A queue is counted in one place or the other at any time that could panic.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connected(&self) {
        count(&self.connects);
    }

    pub(crate) fn queue_added(&self, counters: &Arc<IoCounters>) {
        self.lock().live.push(Arc::clone(counters));
    }

    pub(crate) fn queue_removed(&self, counters: &Arc<IoCounters>) {
        let mut queues = self.lock();
        if let Some(at) = queues.live.iter().position(|live| Arc::ptr_eq(live, counters)) {
            let totals = queues.live.swap_remove(at).totals();
            queues.past += totals;
        }
    }

    fn status(&self, host: Option<Nqn>) -> HostStatus {
        let queues = self.lock();
        let mut totals = queues.past;
        queues.live.iter().for_each(|live| totals += live.totals());
        HostStatus { host, connects: self.connects.load(Ordering::Relaxed), totals }
    }
}

/// All hosts that ever had a controller. Without a list of allowed hosts anyone can come under any name, so there is
/// a bound on how many are told apart.
pub(crate) struct Hosts {
    most: usize,
    by_name: Mutex<BTreeMap<Nqn, Arc<HostRecord>>>,
    others: Arc<HostRecord>,
}

impl Hosts {
    pub(crate) fn new(allowed: &AllowedHosts) -> Self {
        let most = match allowed {
            AllowedHosts::Any => limits::MAX_HOSTS_TOLD_APART,
            AllowedHosts::Only(hosts) => hosts.len(),
        };
        Self { most, by_name: Mutex::default(), others: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Nqn, Arc<HostRecord>>> {
        // Each change is one insertion.
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record of a host.
    pub(crate) fn of(&self, host: &Nqn) -> Arc<HostRecord> {
        let mut by_name = self.lock();
        if let Some(record) = by_name.get(host) {
            return Arc::clone(record);
        }
        if by_name.len() >= self.most {
            return Arc::clone(&self.others);
        }
        Arc::clone(by_name.entry(host.clone()).or_default())
    }

    /// A record that nobody looks at.
    pub(crate) fn nobody(&self) -> Arc<HostRecord> {
        Arc::default()
    }

    /// All of them, and those that are not told apart last, where there are any.
    pub(crate) fn status(&self) -> Vec<HostStatus> {
        let mut list: Vec<_> = self.lock().iter().map(|(host, record)| record.status(Some(host.clone()))).collect();
        let others = self.others.status(None);
        list.extend((others.connects > 0).then_some(others));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: usize) -> Nqn {
        format!("nqn.2020-01.org.example:{number}").parse().unwrap()
    }

    #[test]
    fn what_a_host_did_stays_counted_when_its_queues_go() {
        let hosts = Hosts::new(&AllowedHosts::Any);
        let counters = Arc::new(IoCounters::default());
        hosts.of(&host(1)).connected();
        hosts.of(&host(1)).queue_added(&counters);
        counters.read_bytes.add(10);
        assert_eq!(hosts.status()[0].totals.read_bytes, 10);
        hosts.of(&host(1)).queue_removed(&counters);
        let again = Arc::new(IoCounters::default());
        hosts.of(&host(1)).queue_added(&again);
        again.read_bytes.add(5);
        let status = hosts.status();
        assert_eq!((status.len(), status[0].connects, status[0].totals.read_bytes), (1, 1, 15));
    }

    #[test]
    fn hosts_beyond_the_bound_are_counted_together() {
        let hosts = Hosts::new(&AllowedHosts::Any);
        for number in 0..limits::MAX_HOSTS_TOLD_APART + 5 {
            hosts.of(&host(number)).connected();
        }
        let status = hosts.status();
        assert_eq!(status.len(), limits::MAX_HOSTS_TOLD_APART + 1);
        let others = status.last().unwrap();
        assert_eq!((others.host.clone(), others.connects), (None, 5));
    }
}
