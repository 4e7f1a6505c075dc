//! Sessions that outlive the program: the timeline's state to a file, and from one.
//!
//! A file holds what the live session holds: the KV rows of the whole timeline, the recurrent state at its end, and the
//! checkpoints on the way to it, so that a prompt that parts from the timeline goes on from a file as it would have
//! from the session. Restored state is the same to the bit.

use std::path::PathBuf;

use super::{Session, SessionError};
use crate::compute::{ExecuteError, LayerState, Recording};
use crate::state::{
    CACHE_BLOCK, Checkpoint, Header, Identity, Reason, SessionFileError, SessionFolder, SessionMemory, SessionReader,
    SessionWriter, Usable,
};

/// What [`Session::restore`] found.
#[derive(Debug, Default)]
pub struct Restored {
    /// Tokens of the prompt whose state is in the session now.
    pub tokens: usize,
    /// The file that it came from.
    pub path: Option<PathBuf>,
    /// Files that could not be used, and why.
    pub refused: Vec<SessionFileError>,
}

impl Session<'_> {
    /// Restores the state of the longest beginning of `tokens` that a file of `folder` has, when that is longer than what
    /// the session itself has. The timeline is that beginning then: [`sync`](Self::sync) runs the rest. Without such a
    /// file nothing is changed.
    ///
    /// # Errors
    /// The device's. A file that is damaged, or of another version or model, is none: the next best is taken.
    pub fn restore(&mut self, folder: &SessionFolder, tokens: &[u32]) -> Result<Restored, SessionError> {
        let identity = self.identity();
        let (files, refused) = folder.find(&identity, tokens);
        let mut restored = Restored { refused, ..Restored::default() };
        for Usable { path, tokens: usable, .. } in files {
            if usable <= self.usable(tokens) || usable > self.engine.context {
                continue;
            }
            let loaded = SessionReader::open(&path, &identity)
                .map_err(SessionError::from)
                .and_then(|file| self.load(file, usable));
            match loaded {
                Ok(()) => {
                    folder.touch(&path);
                    return Ok(Restored { tokens: usable, path: Some(path), ..restored });
                }
                Err(SessionError::File(e)) => {
                    // part of it is in the caches
                    self.forget()?;
                    restored.refused.push(e);
                }
                Err(e) => {
                    self.broken = true;
                    return Err(e);
                }
            }
        }
        Ok(restored)
    }

    /// Saves the session to a file of `folder`, for [`restore`](Self::restore). A session without tokens is not saved.
    ///
    /// # Errors
    /// A session that is [`Broken`](SessionError::Broken), the device's errors, and those of [`SessionFolder::save`].
    pub fn save(&mut self, folder: &mut SessionFolder) -> Result<Option<PathBuf>, SessionError> {
        self.save_while(folder, &mut || true)
    }

    /// As [`save`](Self::save), as long as `go_on` says, which is asked every few megabytes: what was begun is gone then,
    /// and the files are as they were.
    ///
    /// # Errors
    /// As there, and [`ExecuteError::Interrupted`].
    pub(crate) fn save_while(
        &mut self,
        folder: &mut SessionFolder,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<PathBuf>, SessionError> {
        if self.broken {
            return Err(SessionError::Broken);
        }
        if self.tokens.is_empty() {
            return Ok(None);
        }
        let header = self.header();
        folder.save(&header, |writer| self.write_sections(&header, writer, go_on)).map(Some)
    }

    /// Keeps the session in memory, if it is there and fits, for [`take_from`](Self::take_from).
    ///
    /// # Errors
    /// The device's.
    pub fn keep_in(&mut self, memory: &mut SessionMemory) -> Result<(), SessionError> {
        if self.broken || self.tokens.is_empty() {
            return Ok(());
        }
        let header = self.header();
        if memory.has_room_for(&header) {
            let mut writer = SessionWriter::in_memory(&header);
            self.write_sections(&header, &mut writer, &mut || true)?;
            memory.keep(header, writer.into_memory());
        }
        Ok(())
    }

    /// As [`restore`](Self::restore), from memory: how many tokens of the prompt there is the state of now, if that is more
    /// than before.
    ///
    /// # Errors
    /// The device's.
    pub fn take_from(&mut self, memory: &mut SessionMemory, tokens: &[u32]) -> Result<Option<usize>, SessionError> {
        let Some((usable, kept)) = memory.best(&self.identity(), tokens, self.usable(tokens)) else { return Ok(None) };
        self.load(kept, usable).inspect_err(|_| self.broken = true)?;
        Ok(Some(usable))
    }

    /// What a file of the session begins with.
    fn header(&self) -> Header {
        let end = self.tokens.len();
        let kept = self.checkpoints.kept().iter().filter(|checkpoint| checkpoint.position < end);
        let mut states: Vec<(usize, Reason)> =
            kept.map(|checkpoint| (checkpoint.position, checkpoint.reason)).collect();
        states.push((end, Reason::Turn));
        Header { identity: self.identity(), tokens: self.tokens.clone(), states }
    }

    fn identity(&self) -> Identity {
        let engine = &*self.engine;
        let (config, rounds) = (engine.config.as_bytes(), engine.rounds_prompts);
        Identity::new(config, &engine.embed, &engine.recording, &engine.state, rounds)
    }

    fn write_sections(
        &mut self,
        header: &Header,
        writer: &mut SessionWriter,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), SessionError> {
        let mut check = || if go_on() { Ok(()) } else { Err(ExecuteError::Interrupted) };
        let engine = &mut *self.engine;
        let live = engine.runner.read_states(&engine.recording.state)?;
        for section in header.sections() {
            writer.begin(&section)?;
            match engine.state[section.layer] {
                LayerState::Attention { kv } => {
                    for first in (0..section.position).step_by(CACHE_BLOCK) {
                        check()?;
                        let last = section.position.min(first + CACHE_BLOCK);
                        for stream in 0..engine.recording.caches[kv.0].streams.len() {
                            writer.bytes(&engine.runner.read_cache_rows(kv, stream, first..last)?)?;
                        }
                    }
                }
                state => {
                    check()?;
                    let checkpoint = self.checkpoints.last_until(section.position);
                    let states = checkpoint.filter(|c| c.position == section.position).map_or(&live, |c| &c.state);
                    for tensor in state_tensors(&engine.recording, &state) {
                        writer.bytes(bytemuck::cast_slice(&states[tensor]))?;
                    }
                }
            }
            writer.end()?;
        }
        // from here on the disk has the word
        Ok(check()?)
    }

    /// Loads the state after `usable` tokens, and the checkpoints before.
    fn load(&mut self, mut file: SessionReader, usable: usize) -> Result<(), SessionError> {
        self.forget()?;
        self.broken = true;
        let header = file.header.clone();
        let recording = self.engine.recording.clone();
        let mut reading: Option<Checkpoint> = None;
        let mut rows = Vec::new();
        for section in header.sections() {
            match self.engine.state[section.layer] {
                LayerState::Attention { kv } => {
                    file.begin(&section)?;
                    for first in (0..section.position).step_by(CACHE_BLOCK) {
                        let positions = CACHE_BLOCK.min(section.position - first);
                        for (stream, of) in recording.caches[kv.0].streams.iter().enumerate() {
                            rows.resize(positions * of.row_bytes(), 0);
                            file.bytes(&mut rows)?;
                            // the rest is read for its checksum
                            let wanted = usable.saturating_sub(first).min(positions) * of.row_bytes();
                            if wanted > 0 {
                                self.engine.runner.write_cache_rows(kv, stream, first, &rows[..wanted])?;
                            }
                        }
                    }
                    file.end(&section)?;
                }
                _ if section.position > usable => file.skip(&section)?,
                state => {
                    let checkpoint = match &mut reading {
                        Some(checkpoint) if checkpoint.position == section.position => checkpoint,
                        _ => {
                            self.keep(reading.take(), &header);
                            let state = vec![Vec::new(); recording.state.len()];
                            reading.insert(Checkpoint { position: section.position, reason: Reason::Interval, state })
                        }
                    };
                    let tensors = state_tensors(&recording, &state);
                    file.begin(&section)?;
                    for &tensor in &tensors {
                        let spec = recording.spec(recording.state[tensor]);
                        let elements = recording.elements(recording.state[tensor]);
                        let mut values = vec![0.0; elements / spec.stride * spec.width];
                        file.bytes(bytemuck::cast_slice_mut(&mut values))?;
                        checkpoint.state[tensor] = values;
                    }
                    file.end(&section)?;
                    if section.position == usable {
                        for tensor in tensors {
                            self.engine.runner.write_state(recording.state[tensor], &checkpoint.state[tensor])?;
                        }
                    }
                }
            }
        }
        self.keep(reading, &header);
        self.tokens = header.tokens[..usable].to_vec();
        self.broken = false;
        Ok(())
    }

    /// Keeps a checkpoint that is read, for the reason that it was taken for.
    fn keep(&mut self, checkpoint: Option<Checkpoint>, header: &Header) {
        let Some(checkpoint) = checkpoint else { return };
        let reason = header.states.iter().find(|(position, _)| *position == checkpoint.position);
        let reason = reason.map_or(Reason::Interval, |(_, reason)| *reason);
        self.checkpoints.insert(Checkpoint { reason, ..checkpoint });
    }

    /// Back to an empty timeline.
    fn forget(&mut self) -> Result<(), SessionError> {
        self.broken = true;
        self.engine.runner.reset()?;
        self.tokens.clear();
        self.checkpoints.clear();
        self.broken = false;
        Ok(())
    }
}

/// Which of the state tensors of a recording a layer keeps, in the order of its section in a file.
fn state_tensors(recording: &Recording, layer: &LayerState) -> Vec<usize> {
    match layer {
        LayerState::Attention { .. } => Vec::new(),
        LayerState::DeltaNet { conv, recurrent, .. } => {
            [conv, recurrent].map(|view| recording.state_index(view.tensor)).into()
        }
    }
}
