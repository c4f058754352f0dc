//! When an I/O queue whose connection broke is connected again.
//!
//! At once the first time: one connection may break for reasons of its own. After that with waits that double, from 0.1 s to
//! 5 s, so that a target that cannot serve is not hammered; but one that moves data over each connection, however short they
//! live, is well, and waited for no longer than 0.1 s.

use super::queue_pair::backoff;
use std::time::{Duration, Instant};

/// An I/O queue that stood for this long has its next failure forgiven.
const STABLE_TIME: Duration = Duration::from_secs(5);

/// One worker's I/O queue, as the control thread sees it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reconnect {
    /// The worker waits for it.
    pub(super) wanted: bool,
    failures: u8,
    /// Not before this.
    retry_at: Option<Instant>,
    up_since: Option<Instant>,
}

impl Reconnect {
    /// When it is to be connected, if it has to wait.
    pub(super) fn timer(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.wanted)
    }

    /// Whether it is to be connected now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.wanted && self.retry_at.is_none_or(|at| at <= now)
    }

    /// The controller is new; who waits for the queue still does.
    pub(super) fn forget(&mut self) {
        *self = Self { wanted: self.wanted, ..Self::default() };
    }

    /// It stands.
    pub(super) fn up(&mut self, now: Instant) {
        self.up_since = Some(now);
    }

    /// It broke, or could not be made. `worked` tells whether data was moved over this connection.
    pub(super) fn lost(&mut self, worked: bool, now: Instant) {
        let stood = self.up_since.take().map(|since| now.saturating_duration_since(since));
        if stood.is_some_and(|stood| stood >= STABLE_TIME) {
            self.failures = 0;
        } else if worked {
            self.failures = self.failures.min(1);
        }
        self.retry_at = self.failures.checked_sub(1).map(|failures| now + backoff(failures));
        self.failures = self.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_millis(10);

    /// The waits before each of several connections that are made, live for a while and break, in milliseconds.
    fn waits(queue: &mut Reconnect, lives: &[(Option<Duration>, bool)]) -> Vec<u128> {
        let mut now = Instant::now();
        queue.wanted = true;
        let mut waits = Vec::new();
        for &(life, worked) in lives {
            if let Some(life) = life {
                queue.up(now);
                now += life;
            }
            queue.lost(worked, now);
            let wait = queue.timer().map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
            assert!(wait.is_zero() || !queue.is_due(now + wait - Duration::from_millis(1)));
            assert!(queue.is_due(now + wait));
            now += wait;
            waits.push(wait.as_millis());
        }
        waits
    }

    #[test]
    fn p08_a_queue_that_cannot_be_made_is_waited_for_longer_and_longer() {
        assert_eq!(
            waits(&mut Reconnect::default(), &[(None, false); 9]),
            [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]
        );
        let refused_later = [(Some(LIFE), false); 5];
        assert_eq!(
            waits(&mut Reconnect::default(), &refused_later),
            [0, 100, 200, 400, 800],
            "it stood, and did nothing"
        );
    }

    #[test]
    fn p08_a_queue_that_works_and_breaks_often_is_not_waited_for_long() {
        let mut queue = Reconnect::default();
        assert_eq!(waits(&mut queue, &[(Some(LIFE), true); 20])[..3], [0, 100, 100]);
        assert_eq!(waits(&mut queue, &[(Some(LIFE), true)]), [100]);
        // What was waited for before is forgiven as soon as it works again.
        assert_eq!(waits(&mut queue, &[(None, false); 5]), [200, 400, 800, 1600, 3200]);
        assert_eq!(waits(&mut queue, &[(Some(LIFE), true), (None, false)]), [100, 200]);
    }

    #[test]
    fn p08_a_queue_that_stood_for_long_or_belongs_to_a_new_controller_is_made_at_once() {
        let mut queue = Reconnect::default();
        assert_eq!(waits(&mut queue, &[(None, false), (None, false), (Some(STABLE_TIME), false)]), [0, 100, 0]);
        assert_eq!(waits(&mut queue, &[(None, false); 2]), [100, 200]);
        queue.forget();
        assert!(queue.is_due(Instant::now()), "it is still wanted");
        assert_eq!(waits(&mut queue, &[(None, false)]), [0]);
    }
}
