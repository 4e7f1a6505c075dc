//! What Mach says of this machine and this process.

use std::ffi::c_int;
use std::sync::OnceLock;

/// `HOST_VM_INFO64` of mach/host_info.h.
const HOST_VM_INFO64: c_int = 4;

/// `TASK_VM_INFO` of mach/task_info.h.
const TASK_VM_INFO: c_int = 22;

/// 32-bit words that are enough for either answer. The kernel writes as many as it has and says how many those are.
const WORDS: usize = 256;

type Words = [u32; WORDS];

// SAFETY: functions and variables of libSystem with the types of mach/mach_host.h, mach/task.h, mach/mach_init.h,
// mach/vm_page_size.h and os/proc.h.
unsafe extern "C" {
    fn mach_host_self() -> u32;
    fn host_statistics64(host: u32, flavor: c_int, info: *mut u32, count: *mut u32) -> c_int;
    fn task_info(task: u32, flavor: c_int, info: *mut u32, count: *mut u32) -> c_int;
    static mach_task_self_: u32;
    static vm_kernel_page_size: usize;
    #[cfg(target_os = "ios")]
    fn os_proc_available_memory() -> usize;
}

/// A 64-bit number at `word`, when the kernel wrote that far.
fn long(words: &[u32], word: usize) -> Option<u64> {
    Some(u64::from(*words.get(word)?) | u64::from(*words.get(word + 1)?) << 32)
}

/// The answer to a question whose first `written` words count.
fn ask(question: impl FnOnce(*mut u32, *mut u32) -> c_int) -> Option<(Words, usize)> {
    let mut words = [0; WORDS];
    let mut written = WORDS as u32;
    let code = question(words.as_mut_ptr(), &mut written);
    (code == 0).then_some((words, (written as usize).min(WORDS)))
}

/// Bytes that this process can still allocate.
///
/// iOS ends a process at its own limit, however much the machine has, and says how far that is. Without a limit (macOS,
/// the simulator) it is free memory, and files in memory that can be dropped. Inactive memory of programs is not counted:
/// it would be compressed or swapped first.
pub(super) fn available() -> Option<u64> {
    #[cfg(target_os = "ios")]
    {
        // SAFETY: takes nothing; 0 stands for no limit.
        let left = unsafe { os_proc_available_memory() };
        if left > 0 {
            return Some(left as u64);
        }
    }
    static HOST: OnceLock<u32> = OnceLock::new();
    // SAFETY: takes nothing. Each call adds a reference to the port, so it is asked for once.
    let host = *HOST.get_or_init(|| unsafe { mach_host_self() });
    // SAFETY: the kernel writes at most `count` words, which are there.
    let (words, written) = ask(|info, count| unsafe { host_statistics64(host, HOST_VM_INFO64, info, count) })?;
    // SAFETY: a constant of the process.
    let page = unsafe { vm_kernel_page_size } as u64;
    droppable(&words[..written]).map(|pages| pages * page)
}

/// Where the counts are that `droppable` adds up.
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(libc::vm_statistics64, inactive_count) == 2 * 4);
    assert!(offset_of!(libc::vm_statistics64, purgeable_count) == 22 * 4);
    assert!(offset_of!(libc::vm_statistics64, speculative_count) == 23 * 4);
    assert!(offset_of!(libc::vm_statistics64, external_page_count) == 34 * 4);
};

/// Pages of `vm_statistics64` that cost nothing to take.
fn droppable(words: &[u32]) -> Option<u64> {
    let at = |word: usize| words.get(word).copied().map(u64::from);
    let (free, inactive, purgeable, speculative) = (at(0)?, at(2)?, at(22)?, at(23)?);
    let files = at(34)?.saturating_sub(speculative);
    // files that were read ahead are counted as free already
    Some(free + purgeable + files.min(inactive))
}

fn task() -> Option<(Words, usize)> {
    // SAFETY: the task is this process; the kernel writes at most `count` words, which are there.
    ask(|info, count| unsafe { task_info(mach_task_self_, TASK_VM_INFO, info, count) })
}

/// Bytes this process is charged for (`phys_footprint`): what Activity Monitor shows and what iOS's limit is about.
pub(super) fn footprint() -> Option<u64> {
    let (words, written) = task()?;
    // behind virtual_size, region_count, page_size and 16 sizes
    long(&words[..written], 36)
}

/// The most that [`footprint`] was.
pub(super) fn peak_footprint() -> Option<u64> {
    let (words, written) = task()?;
    // ledger_phys_footprint_peak, behind min_address and max_address
    long(&words[..written], 42)
}

/// The limit of this process, where it has one.
pub(super) fn limit() -> Option<u64> {
    #[cfg(target_os = "ios")]
    {
        // SAFETY: takes nothing; 0 stands for no limit.
        let left = unsafe { os_proc_available_memory() } as u64;
        (left > 0).then_some(left + footprint()?)
    }
    #[cfg(not(target_os = "ios"))]
    None
}
