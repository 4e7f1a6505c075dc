//! What the machine is, for people.

use sysinfo::{CpuRefreshKind, RefreshKind, System};

/// The operating system with its version, as far as it says: `Linux (Debian GNU/Linux 13) x86_64`.
pub fn system() -> String {
    let name = System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned());
    format!("{name} {}", std::env::consts::ARCH)
}

/// Threads that compute: as many as the environment wants (`RAYON_NUM_THREADS`), within what is of use.
pub fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok()).filter(|n| *n > 0);
    // where many more threads wait for each other than there are processors, nothing comes to its end
    wanted.unwrap_or(processors).min(4 * processors)
}

/// The name of the processor, as far as the system says.
pub fn processor() -> String {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let name = system.ok().and_then(|system| Some(system.cpus().first()?.brand().trim().to_owned()));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "an unknown processor".to_owned())
}
