//! Folders of the user.

use std::env::var_os;
use std::path::PathBuf;

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
