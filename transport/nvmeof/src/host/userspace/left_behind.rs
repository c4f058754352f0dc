//! Controllers that sessions have left behind: what was sent to them may still be on its way, and be carried out after what
//! the next session with the same target sends. So that one waits until they are gone, as it does for its own.

use super::control::Destination;
use nvferry_wire::ControllerId;
use std::time::Instant;

/// The most that are remembered; beyond that the oldest are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// What ended sessions had.
#[derive(Debug, Default)]
pub(super) struct LeftBehind {
    controllers: Vec<(Destination, ControllerId, Instant)>,
}

impl LeftBehind {
    /// A session has ended; by `until` the target has ended its controllers, too.
    pub(super) fn add(
        &mut self,
        destination: &Destination,
        controllers: &[ControllerId],
        until: Instant,
        now: Instant,
    ) {
        // What it was waiting for itself is there already.
        let anew = |of: &Destination, id| of == destination && controllers.contains(&id);
        self.controllers.retain(|(of, id, until)| *until > now && !anew(of, *id));
        self.controllers.extend(controllers.iter().map(|&id| (destination.clone(), id, until)));
        let beyond = self.controllers.len().saturating_sub(MAX_REMEMBERED);
        self.controllers.drain(..beyond);
    }

    /// What the next session with this target has to wait for. Others with it need not: its requests come after theirs.
    pub(super) fn of(&self, destination: &Destination, now: Instant) -> Vec<ControllerId> {
        let those = self.controllers.iter().filter(|(of, _, until)| of == destination && *until > now);
        those.map(|&(_, id, _)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvferry_wire::Nqn;
    use std::time::Duration;

    #[test]
    fn what_was_left_at_a_target_is_waited_for_there_and_for_no_longer_than_it_can_last() {
        let at = |port| Destination {
            address: ([127, 0, 0, 1], port).into(),
            subnqn: Nqn::new("nqn.2016-06.io.mc:a").unwrap(),
        };
        let now = Instant::now();
        let later = |s| now + Duration::from_secs(s);
        let mut left = LeftBehind::default();
        left.add(&at(1), &[ControllerId(3), ControllerId(4)], later(17), now);
        left.add(&at(2), &[ControllerId(5)], later(18), later(1));
        assert_eq!(left.of(&at(1), later(1)), [ControllerId(3), ControllerId(4)]);
        assert_eq!(left.of(&at(2), later(17)), [ControllerId(5)]);
        assert!(left.of(&at(1), later(17)).is_empty() && left.of(&at(3), now).is_empty());
        left.add(&at(2), &left.of(&at(2), later(2)), later(19), later(2));
        assert_eq!(left.of(&at(2), later(18)), [ControllerId(5)], "waited for by the next one, too, which has ended");
        let many: Vec<_> = (0..MAX_REMEMBERED).map(|id| ControllerId(id as u16)).collect();
        left.add(&at(3), &many, later(40), later(17));
        assert!(left.of(&at(2), later(17)).is_empty(), "the oldest is forgotten");
        assert_eq!(left.controllers.len(), MAX_REMEMBERED);
    }
}
