//! Sessions that outlive the program: the timeline's state to a file, and from one.
//!
//! A file holds what the live session holds: the KV rows of the whole timeline, the recurrent state at its end, and the
//! checkpoints on the way to it, so that a prompt that parts from the timeline goes on from a file as it would have
//! from the session. Restored state is the same to the bit.

use std::path::PathBuf;

use super::{Session, SessionError};
use crate::model::LayerState;
use crate::state::{
    Checkpoint, FileReader, FileWriter, Header, Identity, KV_BLOCK, Kind, Reason, SessionFileError, SessionFolder,
    Usable,
};

const HAS_TENSORS: &str = "what a linear layer keeps is a state tensor of the recording";

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
            let loaded =
                FileReader::open(&path, &identity).map_err(SessionError::from).and_then(|file| self.load(file, usable));
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
        if self.broken {
            return Err(SessionError::Broken);
        }
        if self.tokens.is_empty() {
            return Ok(None);
        }
        let end = self.tokens.len();
        let kept = self.checkpoints.kept().iter().filter(|checkpoint| checkpoint.position < end);
        let mut states: Vec<(usize, Reason)> =
            kept.map(|checkpoint| (checkpoint.position, checkpoint.reason)).collect();
        states.push((end, Reason::Turn));
        let header = Header { identity: self.identity(), tokens: self.tokens.clone(), states };
        folder.save(&header, |writer| self.write_sections(&header, writer)).map(Some)
    }

    fn identity(&self) -> Identity {
        let engine = &*self.engine;
        Identity::new(&engine.config, &engine.embed, &engine.recording, &engine.state)
    }

    fn write_sections(&mut self, header: &Header, writer: &mut FileWriter) -> Result<(), SessionError> {
        let order = self.state_order();
        let engine = &mut *self.engine;
        let live = engine.executor.read_states(&engine.recording.state)?;
        // sections of states come in the order of the layers, state after state
        let mut tensors = order.iter().cycle();
        for section in header.sections() {
            writer.begin(&section)?;
            match (section.kind, engine.state[section.layer]) {
                (Kind::Cache, LayerState::Attention { kv }) => {
                    for first in (0..section.position).step_by(KV_BLOCK) {
                        let last = section.position.min(first + KV_BLOCK);
                        let (keys, values) = engine.executor.read_kv_rows(kv, first..last)?;
                        writer.values(&keys)?;
                        writer.values(&values)?;
                    }
                }
                _ => {
                    let checkpoint = self.checkpoints.last_until(section.position);
                    let states = checkpoint.filter(|c| c.position == section.position).map_or(&live, |c| &c.state);
                    writer.values(&states[*tensors.next().expect(HAS_TENSORS)])?;
                }
            }
            writer.end()?;
        }
        Ok(())
    }

    /// Loads the state after `usable` tokens, and the checkpoints before.
    fn load(&mut self, mut file: FileReader, usable: usize) -> Result<(), SessionError> {
        self.forget()?;
        self.broken = true;
        let header = file.header.clone();
        let order = self.state_order();
        let mut tensors = order.iter().cycle();
        let mut reading: Option<Checkpoint> = None;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for section in header.sections() {
            match (section.kind, self.engine.state[section.layer]) {
                (Kind::Cache, LayerState::Attention { kv }) => {
                    file.begin(&section)?;
                    let width = self.engine.recording.kv[kv.0].width;
                    for first in (0..section.position).step_by(KV_BLOCK) {
                        let rows = KV_BLOCK.min(section.position - first);
                        keys.resize(rows * width, 0.0);
                        values.resize(rows * width, 0.0);
                        file.values(&mut keys)?;
                        file.values(&mut values)?;
                        // the rest is read for its checksum
                        let wanted = usable.saturating_sub(first).min(rows) * width;
                        if wanted > 0 {
                            self.engine.executor.write_kv_rows(kv, first, &keys[..wanted], &values[..wanted])?;
                        }
                    }
                    file.end(&section)?;
                }
                _ if section.position > usable => file.skip(&section)?,
                _ => {
                    let tensor = *tensors.next().expect(HAS_TENSORS);
                    // the identity says that this is as long as the live one
                    let mut state = vec![0.0; section.values as usize];
                    file.begin(&section)?;
                    file.values(&mut state)?;
                    file.end(&section)?;
                    if section.position == usable {
                        self.engine.executor.write_state(self.engine.recording.state[tensor], &state)?;
                    }
                    let checkpoint = match &mut reading {
                        Some(checkpoint) if checkpoint.position == section.position => checkpoint,
                        _ => {
                            self.keep(reading.take(), &header);
                            let state = vec![Vec::new(); order.len()];
                            reading.insert(Checkpoint { position: section.position, reason: Reason::Interval, state })
                        }
                    };
                    checkpoint.state[tensor] = state;
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

    /// Which state tensors of the recording the sections of a state hold, in the order of the sections.
    fn state_order(&self) -> Vec<usize> {
        let recording = &self.engine.recording;
        let place = |tensor| recording.state.iter().position(|state| *state == tensor).expect(HAS_TENSORS);
        let of = |layer: &LayerState| match layer {
            LayerState::Attention { .. } => Vec::new(),
            LayerState::DeltaNet { conv, recurrent, .. } => vec![place(conv.tensor), place(recurrent.tensor)],
        };
        self.engine.state.iter().flat_map(of).collect()
    }

    /// Back to an empty timeline.
    fn forget(&mut self) -> Result<(), SessionError> {
        self.broken = true;
        self.engine.executor.reset()?;
        self.tokens.clear();
        self.checkpoints.clear();
        self.broken = false;
        Ok(())
    }
}
