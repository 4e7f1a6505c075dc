//! Folders of the user.

use std::env::var_os;
use std::io;
use std::path::{Path, PathBuf};

/// Where programs keep what they can make again; `None` where the system names no such folder.
pub fn cache() -> Option<PathBuf> {
    // the specification of XDG wants relative paths ignored; so do we elsewhere
    let folder = |variable| var_os(variable).map(PathBuf::from).filter(|folder| folder.is_absolute());
    if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_vendor = "apple") {
        folder("HOME").map(|home| home.join("Library").join("Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
    }
}

/// Makes `link` lead to the file `target`, by the path `relative` from the link's folder, in place of whatever has that
/// name. Where the user may make no such links (Windows) it is another name of the same file, or a copy on another disk.
///
/// # Errors
/// What the system says.
pub fn link_to_file(relative: &Path, target: &Path, link: &Path) -> io::Result<()> {
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    #[cfg(unix)]
    {
        let _ = target;
        std::os::unix::fs::symlink(relative, link)
    }
    #[cfg(not(unix))]
    {
        #[cfg(windows)]
        if std::os::windows::fs::symlink_file(relative, link).is_ok() {
            return Ok(());
        }
        let _ = relative;
        std::fs::hard_link(target, link).or_else(|_| std::fs::copy(target, link).map(|_| ()))
    }
}
