//! Files that a command was told to write.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use flashflood_backends::new_files;

/// Writes `path` by `write`, which is given the place to write to. A file appears when it is whole, and nothing else is
/// replaced: a device, a pipe or a link is written to as it is, since to rename onto it would remove it.
pub(super) fn write_whole(path: &Path, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    write_beside(path, new_file_beside, write)
}

/// As [`write_whole`], a file that only its owner may read.
pub(super) fn write_private(path: &Path, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let beside = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        new_files::new_private_file_in(&folder_of(path), &name, "part").map(|(unfinished, _)| unfinished)
    };
    write_beside(path, beside, write)
}

/// A file that only its owner may read, in the place of what had its name; a link is replaced and not followed. A device or
/// a pipe is written to as it is.
pub(super) fn private_file(path: &Path) -> anyhow::Result<File> {
    let file = match is_device(path) {
        // behind what a shell was told to keep of it
        true => OpenOptions::new().append(true).open(path),
        false => new_files::private_file_in_place_of(path),
    };
    file.with_context(|| path.display().to_string())
}

/// Whether `path` is a device, a pipe, or a name that the system has for an open file, such as /dev/stdout.
fn is_device(path: &Path) -> bool {
    // others may write to folders below /dev, such as /dev/shm
    let is_of_system = || {
        let folder = fs::canonicalize(folder_of(path)).unwrap_or_default();
        let is_link = fs::symlink_metadata(path).is_ok_and(|known| known.is_symlink());
        is_link && (folder == Path::new("/dev") || folder.starts_with("/proc")) || folder == Path::new("/dev/fd")
    };
    fs::metadata(path).is_ok_and(|known| !known.is_file() && !known.is_dir()) || is_of_system()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => folder.to_owned(),
        None => PathBuf::from("."),
    }
}

fn write_beside(
    path: &Path,
    beside: impl FnOnce(&Path) -> std::io::Result<PathBuf>,
    write: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    if fs::symlink_metadata(path).is_ok_and(|known| !known.is_file()) {
        return write(path).with_context(named);
    }
    let unfinished = beside(path).with_context(named)?;
    let written = write(&unfinished).and_then(|()| Ok(fs::rename(&unfinished, path)?));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written.with_context(named)
}

/// An empty file in the folder of `path` that was not there before.
fn new_file_beside(path: &Path) -> std::io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut number = 0;
    loop {
        let unfinished = path.with_file_name(format!("{name}.{}-{number}.part", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&unfinished) {
            Ok(_) => return Ok(unfinished),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_whole_or_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        // somebody else's
        fs::write(folder.path().join("x.part"), "kept").unwrap();
        write_whole(&path, |place| Ok(fs::write(place, "new")?)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        let failed = write_whole(&path, |place| {
            fs::write(place, "half")?;
            anyhow::bail!("no more room")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("no more room"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_to_string(folder.path().join("x.part")).unwrap(), "kept");
        assert_eq!(files(folder.path()), ["x.part", "x.safetensors"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_a_device_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_whole(&link, |place| Ok(fs::write(place, "new")?)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let null = Path::new("/dev/null");
        write_whole(null, |place| {
            assert_eq!(place, null);
            Ok(fs::write(place, "nothing")?)
        })
        .unwrap();
        assert!(!fs::metadata(null).unwrap().is_file());
        assert_eq!(files(folder.path()), ["file", "link"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_private_file_below_dev_is_one_and_an_open_file_is_gone_on_with() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::PermissionsExt;
        let write = |path: &Path| private_file(path).unwrap().write_all(b"new").unwrap();
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let (path, victim) = (folder.path().join("trace"), folder.path().join("victim"));
        write(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, "longer than that").unwrap();
        write(&path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        write(&path);
        assert_eq!(
            (fs::read_to_string(&victim).unwrap(), fs::read_to_string(&path).unwrap().len()),
            ("kept".into(), 3)
        );
        // as /dev/stdout is a link to
        let open = File::options().write(true).open(&victim).unwrap();
        for start in ["/proc/self/fd", "/dev/fd"] {
            fs::write(&victim, "kept and ").unwrap();
            write(&Path::new(start).join(open.as_raw_fd().to_string()));
            assert_eq!(fs::read_to_string(&victim).unwrap(), "kept and new");
        }
        write(Path::new("/dev/null"));
    }
}
