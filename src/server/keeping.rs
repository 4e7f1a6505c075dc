//! When the state of a conversation is written to a file: when another one takes its place, when the server stops, and
//! when nobody has asked for anything for a while, so that a server that is killed then loses nothing.
//!
//! What is written in a quiet moment is the whole state, gigabytes for a long conversation of a large model. A conversation
//! that goes on at once, as an agent's does after every call of a tool, must not pay for that at each turn: the moment has
//! to be [`QUIET`] long, and after a file as long as [`RATE`] and [`SHARE`] say. So at most one part in [`SHARE`] of the
//! time goes into such files, and they wear out no disk. A request that comes meanwhile is not kept waiting: the file is
//! given up, except where the disk is already asked to make it durable.

use std::time::{Duration, Instant};

use crate::{Session, SessionFolder};

/// How long nobody has asked for anything at least.
const QUIET: Duration = Duration::from_secs(1);

/// How many times as long as the last file took.
const SHARE: u32 = 10;

/// Bytes a second of files that are written in quiet moments: 1.8 TB a day at most, where disks of the size of a large model
/// are made for several hundred TB.
const RATE: u64 = 20 << 20;

/// The files of a server's conversations, and whether they have what there is.
pub(super) struct Keeping {
    folder: SessionFolder,
    /// Whether a file has the state as it is.
    is_kept: bool,
    /// Whether the next quiet moment is used: once for a state, so that a full disk is not told of every second.
    waits: bool,
    /// How long nobody must have asked for anything before the next one.
    rest: Duration,
}

impl Keeping {
    pub(super) fn new(folder: SessionFolder) -> Self {
        Keeping { folder, is_kept: true, waits: false, rest: QUIET }
    }

    pub(super) fn folder(&self) -> &SessionFolder {
        &self.folder
    }

    /// The state is another one than before.
    pub(super) fn changed(&mut self) {
        (self.is_kept, self.waits) = (false, true);
    }

    /// How long nobody must have asked for anything until the state is written; `None` when there is nothing to write.
    pub(super) fn quiet(&self) -> Option<Duration> {
        self.waits.then_some(self.rest)
    }

    /// Writes the state, unless a file has it.
    pub(super) fn keep(&mut self, session: &mut Session<'_>) {
        self.keep_while(session, || true);
    }

    /// The same as long as `go_on` says; then the next quiet moment is waited for.
    pub(super) fn keep_while(&mut self, session: &mut Session<'_>, mut go_on: impl FnMut() -> bool) {
        if self.is_kept {
            return;
        }
        let begun = Instant::now();
        let mut bytes = 0;
        match session.save_while(&mut self.folder, &mut go_on) {
            Err(error) if error.is_interrupted() => {
                self.rest = self.rest.max(begun.elapsed() * SHARE);
                return;
            }
            Ok(None) => self.is_kept = true,
            Ok(Some(path)) => {
                self.is_kept = true;
                bytes = std::fs::metadata(path).map_or(0, |file| file.len());
                let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(tokens = session.tokens().len(), milliseconds, "kept");
            }
            Err(error) => tracing::warn!("this session is not kept: {error}"),
        }
        self.waits = false;
        self.rest = rest_after(begun.elapsed(), bytes);
    }

    /// The state is of another conversation from now on, whose files replace none of this one's.
    pub(super) fn begin_another(&mut self) {
        self.folder.begin_another();
        // what it is taken from has it, or there is nothing to write yet
        (self.is_kept, self.waits) = (true, false);
    }
}

/// How long nobody must ask for anything after a file of so many bytes that took so long.
fn rest_after(took: Duration, bytes: u64) -> Duration {
    QUIET.max(took * SHARE).max(Duration::from_millis(1000 * bytes / RATE))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::{Device, Engine, EngineOptions};

    #[test]
    fn a_quiet_moment_is_as_long_as_files_take_and_used_once() {
        let root = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(root.path()).unwrap().count();
        let mut engine = Engine::embedded(&EngineOptions { device: Device::Cpu, ..EngineOptions::default() }).unwrap();
        let mut session = engine.session().unwrap();
        [1, 2, 3].into_iter().for_each(|token| session.decode(token).unwrap());
        let mut keeping = Keeping::new(SessionFolder::open(root.path(), 1 << 30).unwrap());
        assert_eq!(keeping.quiet(), None);
        keeping.changed();
        assert_eq!(keeping.quiet(), Some(QUIET));
        // somebody asks while the file is written: at any of its parts
        let mut parts = 0;
        keeping.keep_while(&mut session, || {
            parts += 1;
            true
        });
        assert!(parts > 2 && files() == 1 && keeping.quiet().is_none(), "{parts} parts, {} files", files());
        let before = std::fs::read_dir(root.path()).unwrap().flatten().next().unwrap().path();
        session.decode(4).unwrap();
        for given_up in 0..parts {
            keeping.changed();
            let mut asked = 0;
            keeping.keep_while(&mut session, || {
                asked += 1;
                asked <= given_up
            });
            assert!(before.exists() && files() == 1 && keeping.quiet().is_some(), "after {given_up} of {parts} parts");
        }
        let [short, long] = [Duration::from_millis(1), QUIET];
        assert_eq!([rest_after(short, 1000), rest_after(long, 1000)], [QUIET, QUIET * SHARE]);
        assert_eq!(rest_after(short, 30 * RATE), 30 * QUIET);
        keeping.keep(&mut session);
        // the next turn has replaced the one before
        assert!(!before.exists() && files() == 1 && keeping.quiet().is_none());
        let kept = std::fs::read_dir(root.path()).unwrap().flatten().next().unwrap().path();
        std::fs::remove_file(&kept).unwrap();
        keeping.keep(&mut session);
        assert_eq!(files(), 0, "what was kept is not written again");
    }
}
