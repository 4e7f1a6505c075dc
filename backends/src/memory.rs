//! How much memory there is, for the memory plan: of the machine, or of the container when that is less.

#[cfg(target_vendor = "apple")]
mod apple;

use sysinfo::{MemoryRefreshKind, System};

/// The largest buffer to ask a GPU for, in bytes: buffers of 2 GiB do not exist on some systems, and iOS finds large pieces of
/// its address space seldom.
pub const LARGEST_BUFFER: u64 = if cfg!(target_os = "ios") { 256 << 20 } else { (2 << 30) - (1 << 20) };

/// Bytes that can be allocated now without swapping: free memory and page cache that can be dropped, within the
/// limit of the control group this process is in. On iOS, what is left until the system ends this process.
pub fn available_memory() -> u64 {
    #[cfg(target_vendor = "apple")]
    if let Some(available) = apple::available() {
        return available;
    }
    let free = system().map_or(UNKNOWN, |system| system.available_memory());
    let free = cgroup_room().map_or(free, |room| free.min(room.available));
    limits_room().map_or(free, |room| free.min(room.available))
}

/// Bytes of memory of the machine, or the limit of the control group this process is in when that is less; on iOS the
/// limit of an app.
pub fn total_memory() -> u64 {
    let total = system().map_or(UNKNOWN, |system| system.total_memory());
    #[cfg(target_vendor = "apple")]
    let total = apple::limit().map_or(total, |limit| total.min(limit));
    let total = cgroup_room().map_or(total, |room| total.min(room.limit));
    limits_room().map_or(total, |room| total.min(room.limit))
}

/// Bytes that the limits of this process leave, where it has any.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn left_by_limits() -> Option<u64> {
    limits_room().map(|room| room.available)
}

/// What the limits of this process leave (`ulimit -v`, `ulimit -d`), where it has any.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn limits_room() -> Option<Room> {
    let of = |resource, used: &str| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a local of the type that the call fills in.
        let is_known = unsafe { libc::getrlimit(resource, &raw mut limit) } == 0;
        let limit = (is_known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)?;
        #[cfg_attr(target_pointer_width = "64", expect(clippy::useless_conversion, reason = "32 bits elsewhere"))]
        let limit = u64::from(limit);
        let left = limit.saturating_sub(status_bytes(used)?);
        // stacks of threads and what allocators keep in reserve are addresses as well
        Some(Room { limit, available: left / 4 * 3 })
    };
    let rooms = [of(libc::RLIMIT_AS, "VmSize:"), of(libc::RLIMIT_DATA, "VmData:")];
    rooms.into_iter().flatten().min_by_key(|room| room.available)
}

/// Other systems have these limits as well, and do not hold anybody to them.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limits_room() -> Option<Room> {
    None
}

/// What a limit leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    limit: u64,
    available: u64,
}

/// The most bytes of memory this process has occupied so far, where the system says.
pub fn peak_memory() -> Option<u64> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return status_bytes("VmHWM:");
    #[cfg(target_vendor = "apple")]
    return apple::peak_footprint();
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    None
}

/// A field of /proc/self/status, which counts in KiB whatever the page size; statm would need the page size, which std
/// does not tell.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn status_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Bytes of memory this process occupies, where the system says. On macOS and iOS those that it is charged for, buffers
/// that the GPU shares among them.
pub fn resident_memory() -> Option<u64> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return status_bytes("VmRSS:");
    #[cfg(target_vendor = "apple")]
    return apple::footprint();
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    {
        use sysinfo::{ProcessRefreshKind, ProcessesToUpdate};
        let pid = sysinfo::get_current_pid().ok()?;
        let mut system = System::new().ok()?;
        let what = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
        system.process(pid).map(sysinfo::Process::memory)
    }
}

/// What is assumed where the system does not say: little enough for any machine that runs a model at all.
const UNKNOWN: u64 = 4 << 30;

fn system() -> Option<System> {
    let mut system = System::new().ok()?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    Some(system)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn cgroup_room() -> Option<Room> {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).ok();
    cgroup::room(&read)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn cgroup_room() -> Option<Room> {
    None
}

/// Limits of Linux control groups, version 1 and 2. Files come through a function, so that tests need no container.
#[cfg_attr(
    not(any(target_os = "linux", target_os = "android", test)),
    expect(dead_code, reason = "control groups exist on Linux alone")
)]
mod cgroup {
    use std::path::{Path, PathBuf};

    use super::Room;

    type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

    /// The names that differ between the two versions.
    struct Names {
        limit: &'static str,
        usage: &'static str,
        caches: [&'static str; 2],
    }

    const V1: Names = Names {
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        caches: ["total_inactive_file", "total_active_file"],
    };

    const V2: Names = Names { limit: "memory.max", usage: "memory.current", caches: ["inactive_file", "active_file"] };

    /// The tightest limit from the group of this process up to the root, if any group has one.
    pub(super) fn room(read: Read<'_>) -> Option<Room> {
        let groups = read(Path::new("/proc/self/cgroup"))?;
        let mounts = read(Path::new("/proc/self/mountinfo"))?;
        let mut tightest: Option<Room> = None;
        for line in mounts.lines() {
            let Some((root, mount, names)) = memory_mount(line) else { continue };
            let Some(path) = group_path(&groups, names) else { continue };
            // inside a container the path may be one that only the host sees: then the mount is our group
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            let mut folder = PathBuf::from(mount).join(below);
            while folder.starts_with(mount) {
                if let Some(found) = folder_room(&folder, names, read) {
                    tightest = Some(match tightest {
                        Some(t) => {
                            Room { limit: t.limit.min(found.limit), available: t.available.min(found.available) }
                        }
                        None => found,
                    });
                }
                if !folder.pop() {
                    break;
                }
            }
        }
        tightest
    }

    /// (root, mount point, version) of a mountinfo line, if it mounts the groups that limit memory.
    fn memory_mount(line: &str) -> Option<(&str, &str, &'static Names)> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, mount) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let names = match after.next()? {
            "cgroup2" => &V2,
            "cgroup" if after.nth(1)?.split(',').any(|o| o == "memory") => &V1,
            _ => return None,
        };
        Some((root, mount, names))
    }

    /// The path of this process's group among the lines `id:controllers:path`.
    fn group_path<'a>(groups: &'a str, names: &Names) -> Option<&'a str> {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let ours = if names.limit == V2.limit {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|c| c == "memory")
            };
            ours.then_some(path)
        })
    }

    /// What one group leaves; `None` when it has no limit.
    fn folder_room(folder: &Path, names: &Names, read: Read<'_>) -> Option<Room> {
        let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
        // "max" in version 2; version 1 writes the largest multiple of a page
        let limit = number(names.limit).filter(|&limit| limit < 1 << 60)?;
        let usage = number(names.usage)?;
        // page cache counts as usage but is dropped when memory is asked for
        let stat = read(&folder.join("memory.stat")).unwrap_or_default();
        let cached: u64 = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| names.caches.contains(name))
            .filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok())
            .sum();
        Some(Room { limit, available: limit.saturating_sub(usage.saturating_sub(cached)) })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn room_of(files: &[(&str, &str)]) -> Option<Room> {
            room(&|path| {
                let (_, text) = files.iter().find(|(name, _)| Path::new(name) == path)?;
                Some((*text).to_owned())
            })
        }

        #[test]
        fn version_2_takes_the_tightest_ancestor() {
            let found = room_of(&[
                ("/proc/self/cgroup", "0::/a/b\n"),
                ("/proc/self/mountinfo", "24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
                ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
                ("/sys/fs/cgroup/a/b/memory.current", "50\n"),
                ("/sys/fs/cgroup/a/memory.max", "1000\n"),
                ("/sys/fs/cgroup/a/memory.current", "700\n"),
                ("/sys/fs/cgroup/a/memory.stat", "anon 600\ninactive_file 60\nactive_file 40\n"),
            ]);
            assert_eq!(found, Some(Room { limit: 1000, available: 400 }));
        }

        #[test]
        fn version_1_in_a_container_reads_its_mount() {
            let found = room_of(&[
                ("/proc/self/cgroup", "4:memory:/docker/x\n0::/\n"),
                ("/proc/self/mountinfo", "35 1 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2048\n"),
                ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1024\n"),
                ("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file 24\n"),
            ]);
            assert_eq!(found, Some(Room { limit: 2048, available: 1048 }));
        }

        #[test]
        fn no_limit_is_none() {
            let found = room_of(&[
                ("/proc/self/cgroup", "4:memory:/\n"),
                ("/proc/self/mountinfo", "35 1 0:32 / /m rw - cgroup cgroup rw,memory\n"),
                ("/m/memory.limit_in_bytes", "9223372036854771712\n"),
                ("/m/memory.usage_in_bytes", "1024\n"),
            ]);
            assert_eq!(found, None);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn numbers_are_plausible() {
        let (total, available) = (total_memory(), available_memory());
        assert!(total > 16 << 20, "{total}");
        assert!(available > 0 && available <= total, "{available} of {total}");
        if let Some(resident) = resident_memory() {
            assert!(resident > 64 << 10 && resident < total, "{resident} of {total}");
        }
    }
}
