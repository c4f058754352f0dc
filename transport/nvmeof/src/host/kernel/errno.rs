//! What an error number of a kernel NVMe device says.
//!
//! The kernel turns a command's NVMe status into a block status and that into an errno (`nvme_error_status` in
//! drivers/nvme/host/core.c, `blk_errors` in block/blk-core.c). Many statuses share one errno; back again there is the one
//! that is meant most often, and none where that would be a guess.

use nvferry_engine::{Failure, Operation};
use nvferry_wire::StatusCode;
use std::io;

/// Linux's numbers, which are the same on all platforms that have NVMe over Fabrics.
mod linux {
    pub(super) const EIO: i32 = 5;
    pub(super) const ENXIO: i32 = 6;
    pub(super) const ENODEV: i32 = 19;
    pub(super) const ENOSPC: i32 = 28;
    pub(super) const EBADE: i32 = 52;
    pub(super) const ENODATA: i32 = 61;
    pub(super) const ENOLINK: i32 = 67;
    pub(super) const EILSEQ: i32 = 84;
    pub(super) const EOPNOTSUPP: i32 = 95;
    pub(super) const ETIMEDOUT: i32 = 110;
    pub(super) const EREMOTEIO: i32 = 121;
}
use linux::*;

/// The NVMe status that most likely became this errno.
pub(crate) fn likely_status(errno: i32, op: Operation) -> Option<StatusCode> {
    Some(match errno {
        ENOSPC => StatusCode::CapacityExceeded,
        EBADE => StatusCode::ReservationConflict,
        ENODATA if op == Operation::Write => StatusCode::WriteFault,
        ENODATA => StatusCode::UnrecoveredReadError,
        EILSEQ => StatusCode::GuardCheckError,
        ENOLINK => StatusCode::HostPathingError,
        EREMOTEIO => StatusCode::LbaOutOfRange,
        _ => return None,
    })
}

/// Whether the device's going may be the reason, rather than the storage behind it.
pub(crate) fn may_be_gone(errno: i32) -> bool {
    // ENOSPC is what a write to a device gives whose size has become zero; EOPNOTSUPP what "invalid namespace" becomes.
    matches!(errno, EIO | ENXIO | ENODEV | ENOLINK | ENOSPC | EOPNOTSUPP | ETIMEDOUT)
}

/// How a request fails because of an error of a kernel device.
pub(crate) fn failure(error: &io::Error, op: Operation) -> Failure {
    let errno = error.raw_os_error();
    let status = errno.and_then(|errno| likely_status(errno, op));
    let message = match (errno, status) {
        (_, Some(status)) => format!("the kernel's NVMe device says: {error} (for NVMe most likely: {status})"),
        (Some(ENXIO | ENODEV), None) => format!("the kernel's NVMe device is gone: {error}"),
        (_, None) => format!("the kernel's NVMe device says: {error}; its log (dmesg) may say more"),
    };
    let device_status = status.map(|status| {
        let (sct, sc) = status.to_raw();
        u16::from(sct) << 8 | u16::from(sc)
    });
    Failure { errno, device_status, ..Failure::failed(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p05_errors_carry_errno_and_the_likely_status() {
        for (errno, op, status) in [
            (ENOSPC, Operation::Write, Some(0x081)),
            (EBADE, Operation::Write, Some(0x083)),
            (ENODATA, Operation::Read, Some(0x281)),
            (ENODATA, Operation::Write, Some(0x280)),
            (EILSEQ, Operation::Read, Some(0x282)),
            (ENOLINK, Operation::Read, Some(0x370)),
            (EREMOTEIO, Operation::Read, Some(0x080)),
            (EIO, Operation::Read, None),
            (ENODEV, Operation::Write, None),
        ] {
            let failure = failure(&io::Error::from_raw_os_error(errno), op);
            assert_eq!((failure.errno, failure.device_status), (Some(errno), status), "errno {errno}");
            assert!(failure.message.contains(&format!("os error {errno}")), "{}", failure.message);
        }
    }

    #[test]
    fn media_errors_are_not_taken_for_a_lost_device() {
        for errno in [ENODATA, EILSEQ, EBADE, EREMOTEIO] {
            assert!(!may_be_gone(errno), "{errno}");
        }
        assert!([EIO, ENXIO, ENODEV, ENOLINK].into_iter().all(may_be_gone));
    }

    #[test]
    fn the_numbers_are_this_platforms() {
        for (errno, words) in [(EIO, "Input/output"), (ENOLINK, "Link has been severed"), (EREMOTEIO, "Remote I/O")] {
            let text = io::Error::from_raw_os_error(errno).to_string();
            assert!(text.contains(words), "{text}");
        }
    }
}
