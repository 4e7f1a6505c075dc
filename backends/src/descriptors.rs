//! How many files and sockets a process may have open.

/// How many there may be in all; asks the system for `wanted`, where it gives fewer until somebody asks.
pub fn descriptors(wanted: u64) -> u64 {
    system::allow(wanted)
}

#[cfg(unix)]
mod system {
    pub(super) fn allow(wanted: u64) -> u64 {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a local of the type that the call fills in.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
            return u64::MAX;
        }
        let more = libc::rlimit { rlim_cur: limit.rlim_max.min(wanted), ..limit };
        // SAFETY: the pointer is to a local that the call reads. A soft limit may be raised to the hard one by anybody.
        if more.rlim_cur > limit.rlim_cur && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const more) } == 0 {
            limit = more;
        }
        limit.rlim_cur
    }
}

#[cfg(not(unix))]
mod system {
    /// Sockets are no descriptors of the C library there, and have no such limit.
    pub(super) fn allow(_: u64) -> u64 {
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_some_and_never_fewer_than_before() {
        let before = descriptors(0);
        assert!(before >= 16);
        assert!(descriptors(before.saturating_add(1)) >= before);
    }
}
