//! A repository into the cache: several files at once, each from where its last download stopped, checked against its
//! hash before it gets its name.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flashflood_backends::folders::link_to_file;
use flashflood_backends::new_files;
use flashflood_backends::positioned::sync_folder;
use glob::{MatchOptions, Pattern};
use ureq::http::StatusCode;
use ureq::http::header::CONTENT_RANGE;

use super::client::path_in;
use super::hash::Running;
use super::patience::Patience;
use super::{Cache, Hub, HubError, RepositoryFile, Revision};
use crate::model::quantisations::{labels, of_label, quantisations};
use crate::sizes::bytes_for_people;

/// What flashflood reads of a repository: weights and the text files beside them, not other formats of the same weights.
const READ: [&str; 6] = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.md", "LICENSE*"];

/// Files at a time: one connection is often slower than the line.
const CONNECTIONS: usize = 6;
/// Times in a row that a connection may break without a byte in between.
const TRIES: u32 = 5;

/// What to download.
#[derive(Clone, Debug)]
pub struct Pull {
    /// `org/name`.
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// Files to take; empty takes what flashflood reads.
    pub include: Vec<Pattern>,
    /// Takes the GGUF files of this quantisation, such as `Q4_K_M`, instead.
    pub quantisation: Option<String>,
}

/// What a download tells while it works, from several threads.
#[derive(Clone, Copy, Debug)]
pub enum Report<'a> {
    /// All the bytes there will be.
    Total(u64),
    /// Bytes that were here before.
    Kept(u64),
    /// Bytes that have come.
    Came(u64),
    /// Bytes that came and are worth nothing.
    Lost(u64),
    /// A line for the user.
    Note(&'a str),
}

/// What is in the cache now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The folder with the files.
    pub snapshot: PathBuf,
    /// Files of the snapshot that were wanted.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Pull {
    /// Which of the repository's files to fetch.
    fn choose(&self, files: Vec<RepositoryFile>) -> Result<Vec<RepositoryFile>, HubError> {
        let models = || quantisations(files.iter().map(|file| file.name.as_str()));
        if let Some(wanted) = &self.quantisation {
            let models = models();
            let Some(model) = of_label(&models, wanted) else {
                let found = if models.is_empty() { "none".to_owned() } else { labels(&models) };
                return Err(HubError::NoQuantisation { name: self.name.clone(), wanted: wanted.clone(), found });
            };
            return Ok(files.into_iter().filter(|file| model.files.contains(&file.name)).collect());
        }
        let wanted: Vec<_> = files.iter().filter(|file| self.wants(file)).cloned().collect();
        let has_weights = wanted.iter().any(|file| file.name.ends_with(".safetensors"));
        if self.include.is_empty()
            && !has_weights
            && let models = models()
            && let Some(first) = models.first()
        {
            let first = first.label.clone();
            return Err(HubError::OnlyGguf { name: self.name.clone(), found: labels(&models), first });
        }
        match wanted.is_empty() {
            true => Err(HubError::NothingToPull { name: self.name.clone(), files: files.len(), wanted: self.wanted() }),
            false => Ok(wanted),
        }
    }

    fn wants(&self, file: &RepositoryFile) -> bool {
        if self.include.is_empty() {
            // files in folders are other formats: original/, onnx/
            let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
            return READ.iter().any(|text| Pattern::new(text).is_ok_and(|p| p.matches_with(&file.name, options)));
        }
        self.include.iter().any(|pattern| pattern.matches(&file.name))
    }

    fn wanted(&self) -> String {
        match self.include.is_empty() {
            true => READ.join(" "),
            false => self.include.iter().map(Pattern::as_str).collect::<Vec<_>>().join(" "),
        }
    }

    /// Downloads from `hub` into `cache` what is not there yet, until `go_on` says no.
    ///
    /// # Errors
    /// What the hub, the network and the disk say; what has come by then is kept, and the next call goes on from there.
    pub fn run(
        &self,
        hub: &Hub,
        cache: &Cache,
        report: &(dyn Fn(Report<'_>) + Sync),
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Pulled, HubError> {
        // it becomes a path in refs/
        if self.revision.split(['/', '\\']).any(|part| matches!(part, "" | "." | "..")) {
            return Err(HubError::RevisionName { revision: self.revision.clone() });
        }
        let failed = AtomicBool::new(false);
        let check_go_on = || match go_on() && !failed.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(HubError::Interrupted),
        };
        let patience = Patience::new(report, &check_go_on);
        let Revision { commit, files } = hub.revision(&self.name, &self.revision, &patience)?;
        let mut files = self.choose(files)?;
        let folder = cache.folder(&self.name);
        let blobs = folder.join("blobs");
        let snapshot = folder.join("snapshots").join(&commit);
        for folder in [&blobs, &snapshot] {
            fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
        }
        let download =
            Download { hub, pull: self, commit: &commit, blobs: &blobs, report, patience: &patience, failed: &failed };
        let total = files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
        report(Report::Total(total));
        download.check_room(&files)?;
        // small files first: a wrong token or a full disk shows in the first second, and config.json is there to look at
        files.sort_by_key(|file| file.bytes);
        download.fetch_all(&files, &snapshot)?;
        // the branch moves when everything that it leads to is there
        if self.revision != commit {
            let path = path_in(&folder.join("refs"), &self.revision);
            write_whole(&path, commit.as_bytes())?;
        }
        Ok(Pulled { snapshot, files: files.len(), bytes: total })
    }
}

/// One download's surroundings.
struct Download<'a> {
    hub: &'a Hub,
    pull: &'a Pull,
    commit: &'a str,
    blobs: &'a Path,
    report: &'a (dyn Fn(Report<'_>) + Sync),
    patience: &'a Patience<'a>,
    /// A file has failed: there is no use in going on with others.
    failed: &'a AtomicBool,
}

/// How one request ended.
enum Came {
    /// The file is whole, and has this hash.
    Whole(String),
    /// The connection broke after so many bytes.
    Broken(HubError, u64),
}

impl Download<'_> {
    /// Fetches and links several files at once, until the first error.
    fn fetch_all(&self, files: &[RepositoryFile], snapshot: &Path) -> Result<(), HubError> {
        let (next, error) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let fetched = self.check_go_on().and_then(|()| self.fetch(file));
                if let Err(e) = fetched.and_then(|()| link(self.blobs, snapshot, file)) {
                    // first of all this one: the others end as interrupted because of it
                    error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    self.failed.store(true, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..CONNECTIONS.min(files.len()) {
                // fewer at a time where the system has no more threads
                if std::thread::Builder::new().name("download".to_owned()).spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn blob(&self, file: &RepositoryFile) -> PathBuf {
        self.blobs.join(file.hash.digits())
    }

    fn unfinished(&self, file: &RepositoryFile) -> PathBuf {
        self.blobs.join(format!("{}.incomplete", file.hash.digits()))
    }

    fn is_here(&self, file: &RepositoryFile) -> bool {
        fs::metadata(self.blob(file)).is_ok_and(|meta| meta.len() == file.bytes)
    }

    /// Bytes of the file that an earlier download left.
    fn begun(&self, file: &RepositoryFile) -> u64 {
        fs::metadata(self.unfinished(file)).map_or(0, |meta| meta.len()).min(file.bytes)
    }

    /// Before the first byte comes, not after hours.
    fn check_room(&self, files: &[RepositoryFile]) -> Result<(), HubError> {
        let coming = files.iter().filter(|file| !self.is_here(file)).map(|file| file.bytes - self.begun(file));
        let needed = coming.fold(0, u64::saturating_add);
        let free = fs4::available_space(self.blobs).map_err(HubError::io("ask for the free space of", self.blobs))?;
        if needed <= free {
            return Ok(());
        }
        Err(HubError::NoRoom {
            name: self.pull.name.clone(),
            needed: bytes_for_people(needed),
            free: bytes_for_people(free),
            path: self.blobs.to_owned(),
        })
    }

    /// Leaves the file in the blobs under its hash.
    fn fetch(&self, file: &RepositoryFile) -> Result<(), HubError> {
        if self.is_here(file) {
            (self.report)(Report::Kept(file.bytes));
            return Ok(());
        }
        let path = self.unfinished(file);
        let url = self.hub.url(&self.pull.name, self.commit, file);
        let mut part = new_files::file_to_go_on_with(&path).map_err(HubError::io("open", &path))?;
        // released when this process ends, however it ends
        match part.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HubError::Locked { path }),
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(HubError::io("lock", &path)(e)),
        }
        if self.begun(file) > 0 {
            (self.report)(Report::Kept(self.begun(file)));
        }
        let mut was_damaged = false;
        loop {
            let found = self.fetch_whole(file, &url, &mut part, &path)?;
            if found == file.hash.digits() {
                break;
            }
            (self.report)(Report::Lost(file.bytes));
            part.set_len(0).map_err(HubError::io("empty", &path))?;
            if was_damaged {
                let _ = fs::remove_file(&path);
                return Err(HubError::Damaged { url, expected: file.hash.digits().to_owned(), found });
            }
            was_damaged = true;
            (self.report)(Report::Note(&format!("{} came damaged: fetching it again", file.name)));
        }
        part.sync_all().map_err(HubError::io("write", &path))?;
        drop(part);
        fs::rename(&path, self.blob(file)).map_err(HubError::io("rename", &path))?;
        sync_folder(self.blobs).map_err(HubError::io("sync", self.blobs))
    }

    /// Requests the rest of the file until all of it is there, and returns its hash.
    fn fetch_whole(&self, file: &RepositoryFile, url: &str, part: &mut File, path: &Path) -> Result<String, HubError> {
        let mut broken = 0;
        loop {
            match self.fetch_rest(file, url, part, path)? {
                Came::Whole(hash) => return Ok(hash),
                Came::Broken(error, came) => {
                    broken = if came > 0 { 1 } else { broken + 1 };
                    if broken >= TRIES {
                        return Err(error);
                    }
                    tracing::info!("{}: {error}: going on after {came} bytes", file.name);
                    // in short steps, for Ctrl-C
                    for _ in 0..(1 << broken) {
                        std::thread::sleep(Duration::from_millis(100));
                        self.check_go_on()?;
                    }
                }
            }
        }
    }

    fn check_go_on(&self) -> Result<(), HubError> {
        (self.patience.check_go_on)()
    }

    /// One request, from the end of what is there.
    fn fetch_rest(&self, file: &RepositoryFile, url: &str, part: &mut File, path: &Path) -> Result<Came, HubError> {
        let (mut have, mut hash) = self.read_again(file, part, path)?;
        if have == file.bytes {
            return Ok(Came::Whole(hash.finish()));
        }
        let mut answer = match self.hub.get(url, &self.pull.name, (have > 0).then_some(have), self.patience) {
            Ok(answer) => answer,
            Err(error @ HubError::Network { .. }) => return Ok(Came::Broken(error, 0)),
            Err(error) => return Err(error),
        };
        let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let continues = answer.status() == StatusCode::PARTIAL_CONTENT
            && range.is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
        if have > 0 && !continues {
            // the whole file, or no such range: what is here is of no use
            (self.report)(Report::Lost(have));
            part.set_len(0).and_then(|()| part.rewind()).map_err(HubError::io("empty", path))?;
            if answer.status() != StatusCode::OK {
                let error = HubError::Status { url: url.to_owned(), status: answer.status().as_u16() };
                return Ok(Came::Broken(error, 0));
            }
            (have, hash) = (0, file.hash.start(file.bytes));
        }
        let start = have;
        let mut body = answer.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            self.check_go_on()?;
            let read = match body.read(&mut buffer) {
                Ok(0) if have < file.bytes => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                other => other,
            };
            let read = match read {
                Ok(0) => return Ok(Came::Whole(hash.finish())),
                Ok(read) => read,
                Err(error) => {
                    let error = super::client::network(url, &ureq::Error::Io(error));
                    return Ok(Came::Broken(error, have - start));
                }
            };
            have += read as u64;
            if have > file.bytes {
                let found = format!("more than {} bytes", file.bytes);
                return Err(HubError::Answer {
                    url: url.to_owned(),
                    expected: "the size that the hub has listed",
                    found,
                });
            }
            part.write_all(&buffer[..read]).map_err(HubError::io("write", path))?;
            hash.update(&buffer[..read]);
            (self.report)(Report::Came(read as u64));
        }
    }

    /// The hash of what is there, and how much it is; further bytes are written behind it.
    fn read_again(&self, file: &RepositoryFile, part: &mut File, path: &Path) -> Result<(u64, Running), HubError> {
        let mut hash = file.hash.start(file.bytes);
        let failed = || HubError::io("read", path);
        if part.metadata().map_err(failed())?.len() > file.bytes {
            part.set_len(0).map_err(failed())?;
        }
        part.rewind().map_err(failed())?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            self.check_go_on()?;
            match part.read(&mut buffer).map_err(failed())? {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
        Ok((part.seek(SeekFrom::End(0)).map_err(failed())?, hash))
    }
}

/// Gives a blob its name in the snapshot.
fn link(blobs: &Path, snapshot: &Path, file: &RepositoryFile) -> Result<(), HubError> {
    let path = path_in(snapshot, &file.name);
    let target = blobs.join(file.hash.digits());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
    }
    // from the file's folder up to the repository's: snapshots/COMMIT, and a folder for each slash
    let mut relative: PathBuf = std::iter::repeat_n("..", 2 + file.name.matches('/').count()).collect();
    relative.extend(["blobs", file.hash.digits()]);
    if fs::read_link(&path).is_ok_and(|found| found == relative) {
        return Ok(());
    }
    link_to_file(&relative, &target, &path).map_err(HubError::io("link", &path))
}

/// Writes a small file at once: either the old one or the new one is there.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    new_files::remove_left_over(folder, &name, PART);
    let (part, mut file) = new_files::new_shared_file_in(folder, &name, PART).map_err(HubError::io("create", path))?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&part, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&part);
        HubError::io("write", path)(error)
    })
}

/// What names of files that are not yet whole end with.
const PART: &str = "part";
