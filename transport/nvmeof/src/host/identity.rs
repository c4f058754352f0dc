//! Which file each namespace of an attached target is: what it was first is what it stays.
//!
//! A target that starts again may have its files in another order, and then has another file of the same size under the
//! namespace id of a file that is open here. What tells them apart is the NGUID, in the segment's description as well as
//! in Identify Namespace. A namespace that has none is taken for what its id says.

use super::namespaces::{HostNamespace, Presence};
use nvferry_engine::FileBufferDesc;
use nvferry_wire::{Nguid, Nsid};
use std::collections::BTreeMap;

/// The most namespaces of which it is remembered which file they were, those included that are gone.
const MAX_REMEMBERED: usize = 65_536;

/// What the files of a segment's description are, where they say it.
pub(crate) type Described = Vec<(Nsid, Option<Nguid>)>;

/// Reads which files are described. What is no NGUID says nothing.
pub(crate) fn described(files: &[FileBufferDesc]) -> Described {
    let identity = |file: &FileBufferDesc| Nguid::from_text(file.identity.as_deref()?);
    files.iter().map(|file| (Nsid(file.id.0), identity(file))).collect()
}

/// Which file a namespace is.
#[derive(Debug, Default)]
struct Known {
    nguid: Option<Nguid>,
    /// A description has named it, so that it may have been asked for.
    is_described: bool,
}

/// Which file each namespace is.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    known: BTreeMap<Nsid, Known>,
}

impl Identities {
    /// Takes over what a description says of files of which nothing is known yet. What the target said of a file that was
    /// not described then was said to nobody: the first description is what counts.
    pub(crate) fn learn(&mut self, described: &[(Nsid, Option<Nguid>)]) {
        for &(nsid, nguid) in described {
            let known = self.known.entry(nsid).or_default();
            let is_first = !std::mem::replace(&mut known.is_described, true);
            known.nguid = if is_first { nguid.or(known.nguid) } else { known.nguid.or(nguid) };
        }
    }

    /// What a namespace was, if it says that it is something else now.
    pub(crate) fn replaced(&mut self, nsid: Nsid, nguid: Option<Nguid>) -> Option<Nguid> {
        let now = nguid?;
        let was = *self.known.entry(nsid).or_default().nguid.get_or_insert(now);
        (was != now).then_some(was)
    }

    /// Marks those of a target's namespaces that are other files than they were.
    pub(crate) fn check(&mut self, namespaces: &mut [HostNamespace]) {
        for namespace in namespaces.iter_mut() {
            if let Some(was) = self.replaced(namespace.nsid, namespace.nguid) {
                namespace.presence = Presence::Replaced { was };
            }
        }
        if self.known.len() > MAX_REMEMBERED {
            let present: std::collections::BTreeSet<_> = namespaces.iter().map(|namespace| namespace.nsid).collect();
            self.known.retain(|nsid, _| present.contains(nsid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nguid(byte: u8) -> Option<Nguid> {
        Nguid::new([byte; 16])
    }

    fn check(identities: &mut Identities, nguids: &[(u32, Option<Nguid>)]) -> Vec<(u32, bool)> {
        let entry = |&(nsid, nguid): &(u32, Option<Nguid>)| HostNamespace {
            nsid: Nsid(nsid),
            block_shift: 9,
            blocks: 8,
            nguid,
            presence: Presence::Present,
        };
        let mut namespaces: Vec<_> = nguids.iter().map(entry).collect();
        identities.check(&mut namespaces);
        namespaces.iter().map(|it| (it.nsid.0, it.presence == Presence::Present)).collect()
    }

    #[test]
    fn p08_a_namespace_stays_what_it_was_first() {
        let mut identities = Identities::default();
        identities.learn(&[(Nsid(1), nguid(1)), (Nsid(2), None)]);
        assert_eq!(
            check(&mut identities, &[(1, nguid(1)), (2, nguid(2)), (3, None)]),
            [(1, true), (2, true), (3, true)]
        );
        // In another order; and one that has no identity any more says nothing.
        assert_eq!(check(&mut identities, &[(1, nguid(2)), (2, nguid(1))]), [(1, false), (2, false)]);
        assert_eq!(check(&mut identities, &[(1, None), (3, nguid(3))]), [(1, true), (3, true)]);
        // What a later description says changes nothing, nor does it that a namespace was away.
        identities.learn(&[(Nsid(2), nguid(9)), (Nsid(4), nguid(4))]);
        assert_eq!(
            check(&mut identities, &[(2, nguid(2)), (3, nguid(4)), (4, nguid(3))]),
            [(2, true), (3, false), (4, false)]
        );
    }

    /// Found by the simulator (seed 540): a file that was described for the first time after the target had started again
    /// with another one there was refused for as long as the segment was open.
    #[test]
    fn p08_a_file_is_what_it_was_first_described_as_whatever_the_target_had_there_before() {
        let mut identities = Identities::default();
        identities.learn(&[(Nsid(1), nguid(1))]);
        assert_eq!(check(&mut identities, &[(1, nguid(1)), (2, nguid(2))]), [(1, true), (2, true)]);
        // Nobody knew of the second.
        identities.learn(&[(Nsid(1), nguid(1)), (Nsid(2), nguid(3))]);
        assert_eq!(check(&mut identities, &[(2, nguid(3))]), [(2, true)]);
        identities.learn(&[(Nsid(2), nguid(2))]);
        assert_eq!(check(&mut identities, &[(2, nguid(2))]), [(2, false)], "now it was known");
        // One of which only the id is described is what the target says first.
        assert_eq!(check(&mut identities, &[(3, nguid(4))]), [(3, true)]);
        identities.learn(&[(Nsid(3), None)]);
        assert_eq!(check(&mut identities, &[(3, nguid(5))]), [(3, false)]);
    }

    #[test]
    fn p14_a_target_that_names_ever_new_namespaces_is_not_remembered_without_end() {
        let mut identities = Identities::default();
        for round in 0..3 {
            let some: Vec<_> = (0..40_000).map(|i| (round * 40_000 + i + 1, nguid(1))).collect();
            check(&mut identities, &some);
            assert!(identities.known.len() <= MAX_REMEMBERED + 40_000);
        }
    }

    #[test]
    fn descriptions_are_read_with_or_without_identities() {
        let text = nguid(7).unwrap().to_string();
        let file = |(id, identity): (u32, Option<&str>)| FileBufferDesc {
            identity: identity.map(str::to_owned),
            ..FileBufferDesc::new(nvferry_engine::FileBufferId(id), "/f", 1, 1)
        };
        let files = [(1, Some(text.as_str())), (2, None), (3, Some("no NGUID"))].map(file);
        assert_eq!(described(&files), [(Nsid(1), nguid(7)), (Nsid(2), None), (Nsid(3), None)]);
    }
}
