//! Which namespaces there are, and what they are like: first the list, then one Identify each for those that are new
//! or have changed.

use super::steps::FIRST_NSID;
use crate::host::namespaces::{HostNamespace, Presence};
use nvferry_wire::identify::{IdentifyNamespace, NSID_LIST_ENTRIES, nsid_list};
use nvferry_wire::{Nguid, Nsid, WireError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Identify commands under way at once.
const MAX_IDENTIFY: usize = 8;
/// The most namespaces that are taken note of; a target may name any number.
const MAX_NAMESPACES: usize = 65_536;
/// The largest block that this host takes, as a power of two.
const MAX_BLOCK_SHIFT: u8 = 16;

/// What is to be asked next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScanStep {
    /// The list of active namespaces above this one.
    ListFrom(Nsid),
    /// Each of these; perhaps none, while others are still under way.
    Identify(Vec<Nsid>),
    /// Nothing: these are all.
    Done { ticket: u64, namespaces: Vec<HostNamespace> },
}

/// The state of scanning.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Requests so far.
    requested: u64,
    /// Requests that had come when the scan under way began, if one is.
    under_way: Option<u64>,
    /// Requests that are answered.
    answered: u64,
    /// What is known of each namespace; `None` if it cannot be used.
    known: BTreeMap<Nsid, Option<HostNamespace>>,
    /// Namespaces listed by the scan under way.
    listed: BTreeSet<Nsid>,
    to_identify: VecDeque<Nsid>,
    identifying: usize,
}

impl Scan {
    /// A new association: nothing is known of its namespaces.
    pub(super) fn forget(&mut self) {
        self.under_way = None;
        self.known.clear();
        self.listed.clear();
        self.to_identify.clear();
        self.identifying = 0;
    }

    /// Asks for a scan that begins after this.
    pub(super) fn request(&mut self) -> u64 {
        self.requested += 1;
        self.requested
    }

    /// Whether a scan is to begin.
    pub(super) fn is_wanted(&self) -> bool {
        self.under_way.is_none() && self.answered < self.requested
    }

    pub(super) fn begin(&mut self) -> ScanStep {
        self.under_way = Some(self.requested);
        self.listed.clear();
        ScanStep::ListFrom(FIRST_NSID)
    }

    /// The changed namespace list was read: what is known of them is forgotten. Without a list, that of all is.
    pub(super) fn changed(&mut self, data: Option<&[u8]>) {
        match data.and_then(|data| nsid_list(data).ok()) {
            Some(mut nsids) => nsids.by_ref().for_each(|nsid| {
                if nsid == Nsid::ALL {
                    self.known.clear();
                } else {
                    self.known.remove(&nsid);
                }
            }),
            None => self.known.clear(),
        }
    }

    /// A list of active namespaces came.
    pub(super) fn listed(&mut self, data: &[u8]) -> Result<ScanStep, WireError> {
        let before = self.listed.len();
        let mut last = FIRST_NSID;
        let mut count = 0;
        for nsid in nsid_list(data)?.filter(|nsid| nsid.is_valid()) {
            self.listed.insert(nsid);
            last = last.max(nsid);
            count += 1;
        }
        // A full list may go on; one that brings nothing new never ends.
        if count == NSID_LIST_ENTRIES && self.listed.len() > before && self.listed.len() < MAX_NAMESPACES {
            return Ok(ScanStep::ListFrom(last));
        }
        self.to_identify = self.listed.iter().filter(|nsid| !self.known.contains_key(nsid)).copied().collect();
        self.known.retain(|nsid, _| self.listed.contains(nsid));
        Ok(self.next())
    }

    /// A namespace was identified; without data it is not there any more.
    pub(super) fn identified(&mut self, nsid: Nsid, data: Option<&[u8]>) -> ScanStep {
        self.identifying = self.identifying.saturating_sub(1);
        let namespace = data.and_then(|data| IdentifyNamespace::decode(data).ok());
        let usable = namespace.as_ref().and_then(|namespace| usable(nsid, namespace));
        if usable.is_none() && namespace.is_some_and(|namespace| namespace.is_active()) {
            tracing::warn!(target: "nvferry::host", nsid = nsid.0, "a namespace has a block format that this host does not take");
        }
        self.known.insert(nsid, usable);
        self.next()
    }

    fn next(&mut self) -> ScanStep {
        if self.to_identify.is_empty() && self.identifying == 0 {
            let ticket = self.under_way.take().unwrap_or(self.requested);
            self.answered = self.answered.max(ticket);
            return ScanStep::Done { ticket, namespaces: self.known.values().flatten().copied().collect() };
        }
        let room = MAX_IDENTIFY.saturating_sub(self.identifying).min(self.to_identify.len());
        self.identifying += room;
        ScanStep::Identify(self.to_identify.drain(..room).collect())
    }
}

/// The namespace, if it is active and in a form that can be used: blocks of 512 bytes to 64 KiB without metadata.
fn usable(nsid: Nsid, namespace: &IdentifyNamespace) -> Option<HostNamespace> {
    let format = namespace.format();
    let fits = namespace.is_active() && format.ms == 0 && (9..=MAX_BLOCK_SHIFT).contains(&format.lbads);
    fits.then_some(HostNamespace {
        nsid,
        block_shift: format.lbads,
        blocks: namespace.nsze,
        nguid: Nguid::new(namespace.nguid),
        presence: Presence::Present,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvferry_wire::identify::{IDENTIFY_LEN, encode_nsid_list};

    fn list(nsids: impl IntoIterator<Item = u32>) -> Vec<u8> {
        let mut bytes = [0; IDENTIFY_LEN];
        encode_nsid_list(nsids.into_iter().map(Nsid), &mut bytes);
        bytes.to_vec()
    }

    fn namespace(blocks: u64, lbads: u8) -> Vec<u8> {
        let mut bytes = [0; IDENTIFY_LEN];
        IdentifyNamespace::with_blocks(blocks, lbads).encode(&mut bytes);
        bytes.to_vec()
    }

    /// Scans a target that has these; returns how many were identified.
    fn scan(scan: &mut Scan, nsids: &[u32], expected: &[u32]) -> usize {
        assert!(scan.is_wanted());
        let (mut step, mut identified) = (scan.begin(), 0);
        let mut under_way = VecDeque::new();
        loop {
            step = match step {
                ScanStep::ListFrom(from) => {
                    let rest = nsids.iter().copied().filter(|&nsid| nsid > from.0);
                    scan.listed(&list(rest)).unwrap()
                }
                ScanStep::Identify(more) => {
                    under_way.extend(more);
                    assert!(under_way.len() <= MAX_IDENTIFY);
                    identified += 1;
                    scan.identified(under_way.pop_front().unwrap(), Some(&namespace(8, 9)))
                }
                ScanStep::Done { namespaces, .. } => {
                    let found: Vec<_> = namespaces.iter().map(|namespace| namespace.nsid.0).collect();
                    assert_eq!(found, expected);
                    return identified;
                }
            };
        }
    }

    #[test]
    fn all_are_found_and_only_what_is_new_or_changed_is_identified_again() {
        let mut state = Scan::default();
        let many: Vec<u32> = (1..=2500).collect();
        state.request();
        assert_eq!(scan(&mut state, &many, &many), 2500);
        state.request();
        assert_eq!(scan(&mut state, &many[1..], &many[1..]), 0, "one left");
        state.changed(Some(&list([7, 9])));
        state.request();
        assert_eq!(scan(&mut state, &many[1..], &many[1..]), 2);
        state.changed(Some(&list([u32::MAX])));
        state.request();
        assert_eq!(scan(&mut state, &[3, 4], &[3, 4]), 2, "more changed than the list holds");
    }

    #[test]
    fn a_request_during_a_scan_is_answered_by_the_next() {
        let mut state = Scan::default();
        let first = state.request();
        state.begin();
        let second = state.request();
        assert!(!state.is_wanted(), "one at a time");
        let ScanStep::Done { ticket, .. } = state.listed(&list([])).unwrap() else { panic!() };
        assert!(ticket >= first && ticket < second);
        assert!(state.is_wanted());
    }

    #[test]
    fn what_cannot_be_used_is_left_out() {
        let mut state = Scan::default();
        state.request();
        state.begin();
        assert_eq!(state.listed(&list([1, 2, 3, 4])).unwrap(), ScanStep::Identify([1, 2, 3, 4].map(Nsid).to_vec()));
        state.identified(Nsid(1), Some(&namespace(8, 12)));
        state.identified(Nsid(2), Some(&namespace(8, 17)));
        state.identified(Nsid(3), Some(&namespace(0, 9)));
        let ScanStep::Done { namespaces, .. } = state.identified(Nsid(4), None) else { panic!() };
        assert_eq!(namespaces.iter().map(|namespace| namespace.nsid.0).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn p14_a_list_that_never_ends_ends() {
        let mut state = Scan::default();
        state.request();
        state.begin();
        let full = list(1..=1024);
        assert_eq!(state.listed(&full).unwrap(), ScanStep::ListFrom(Nsid(1024)));
        assert!(matches!(state.listed(&full).unwrap(), ScanStep::Identify(_)), "the same again brings nothing new");
    }
}
