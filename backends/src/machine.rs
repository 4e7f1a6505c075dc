//! What the machine is, for people.

use sysinfo::{CpuRefreshKind, RefreshKind, System};

/// The operating system with its version, as far as it says: `Linux (Debian GNU/Linux 13) x86_64`.
pub fn system() -> String {
    let name = System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned());
    format!("{name} {}", std::env::consts::ARCH)
}

/// The name of the processor, as far as the system says.
pub fn processor() -> String {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let name = system.ok().and_then(|system| Some(system.cpus().first()?.brand().trim().to_owned()));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "an unknown processor".to_owned())
}
