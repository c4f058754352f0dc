//! Whether and when a failed command is sent again.

use nvferry_wire::{RetryAdvice, Status};
use std::time::Duration;

/// Times that a command is sent again after an error of the storage, or after damage on the wire.
const MAX_RETRIES: u8 = 4;
/// Times that a command is sent again after an error of the path: those last until something is set up again.
const MAX_PATH_RETRIES: u8 = 12;
/// The wait before the first retry that is not at once; it doubles.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest wait.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// How long to wait before a command that failed with `status` is sent again, after `attempts` tries before; nothing
/// if it is not. Reads and writes of whole blocks are idempotent, so the status alone decides.
pub(super) fn after_status(status: Status, attempts: u8) -> Option<Duration> {
    match status.retry() {
        RetryAdvice::NotNeeded | RetryAdvice::Never => None,
        RetryAdvice::Now if attempts < MAX_RETRIES => Some(Duration::ZERO),
        RetryAdvice::Later { .. } if attempts < MAX_RETRIES => Some(backoff(attempts)),
        RetryAdvice::AnotherPath if attempts < MAX_PATH_RETRIES => Some(backoff(attempts)),
        RetryAdvice::Now | RetryAdvice::Later { .. } | RetryAdvice::AnotherPath => None,
    }
}

/// The same for data that came damaged or incomplete.
pub(super) fn after_damage(attempts: u8) -> Option<Duration> {
    (attempts < MAX_RETRIES).then_some(Duration::ZERO)
}

/// 0.1 s doubling to 5 s.
pub(crate) fn backoff(attempts: u8) -> Duration {
    FIRST_DELAY.saturating_mul(1 << attempts.min(16)).min(MAX_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvferry_wire::StatusCode;

    #[test]
    fn p08_the_status_decides_about_a_retry() {
        let after = |code, attempts| after_status(Status::new(code), attempts);
        assert_eq!(after(StatusCode::LbaOutOfRange, 0), None);
        assert_eq!(after(StatusCode::InvalidNamespace, 0), None);
        assert_eq!(after(StatusCode::TransientTransportError, 0), Some(Duration::ZERO));
        assert_eq!(after(StatusCode::UnrecoveredReadError, 0), Some(FIRST_DELAY));
        assert_eq!(after(StatusCode::UnrecoveredReadError, MAX_RETRIES), None, "not for ever");
        assert_eq!(after(StatusCode::AnaInaccessible, 7), Some(MAX_DELAY));
        let forbidden = Status::permanent(StatusCode::UnrecoveredReadError);
        assert_eq!(after_status(forbidden, 0), None, "the controller said: do not retry");
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        let ms: Vec<_> = (0..8).map(|attempts| backoff(attempts).as_millis()).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}
