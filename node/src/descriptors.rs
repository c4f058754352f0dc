//! How many files and sockets this process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Asks the system for so many, if there are fewer; tells how many there are then.
pub(crate) fn ask_for(wanted: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let allowed = (wanted as u64).clamp(soft, hard.max(soft));
    let got = if allowed > soft && setrlimit(Resource::RLIMIT_NOFILE, allowed, hard).is_err() { soft } else { allowed };
    usize::try_from(got).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_there_as_far_as_the_system_allows() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let wanted = usize::try_from(soft).expect("it fits") + 1;
        let got = ask_for(wanted);
        assert_eq!(got as u64, (soft + 1).min(hard));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("a limit").0, got as u64);
    }
}
