//! `flashflood calibrate`: what the experts of a model see of a text, for packs of few bits.
//!
//! One pass, layer after layer: all tokens go through a layer before the next one begins, so each expert is read once,
//! whatever the model's size, and what is in memory is one layer's. In between lie the residual streams of all tokens, in a
//! file of the folder that is made, from which an interrupted pass goes on. What is collected, and how it is stored:
//! [`calibration`](crate::weights::calibration).

mod built_in;
mod experts;
mod rows;
mod text;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use flashflood_backends::new_files::shared_file_in_place_of;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::compute::{ExecuteError, LayerRunner};
use crate::file_error::FileError;
use crate::model::{ModelSource, Shape};
use crate::text::TextError;
use crate::weights::calibration::{CALIBRATION, CalibrationHead, LayerCalibration, LayerFile, layer_file};
use crate::weights::pack::Checksum;
use experts::Choice;
use rows::{Rows, part};
pub use text::{CalibrationText, TextKinds};

/// Tokens that go through a layer at a time: what the operations between have in memory grows with it.
const STEP: usize = 512;
/// Most bytes of activations that are kept in memory and not in files.
const IN_MEMORY: u64 = 3 << 30;
/// What an unfinished calibration has.
const PROGRESS: &str = "progress.json";

/// Why there is no calibration.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// A file of the model or of the calibration.
    #[error(transparent)]
    File(#[from] FileError),
    /// Text that the tokenizer refuses.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The model's operations.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// Whoever watches asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// The model has nothing to calibrate.
    #[error("{0}: expected a model with routed experts, found none")]
    NoExperts(PathBuf),
    /// Too little text.
    #[error(
        "the text: expected at least {expected} tokens, found {found}\nhint: give more text, or leave --only-text out"
    )]
    NoText {
        /// One sequence.
        expected: usize,
        /// All of them.
        found: usize,
    },
    /// A token that the model does not know.
    #[error("token {id} of the text: expected less than {vocab} (rows of the embedding)")]
    Token {
        /// Which.
        id: u32,
        /// How many there are.
        vocab: usize,
    },
    /// The router chose what is not there.
    #[error("layer {layer}: the router chose expert {found} of {experts}")]
    Router {
        /// Of the model.
        layer: usize,
        /// What it chose.
        found: u32,
        /// What there is.
        experts: usize,
    },
}

/// How much is collected.
#[derive(Clone, Copy, Debug, Default)]
pub struct CalibrateOptions {
    /// Moments of the inputs of every expert also where they are wide: a better pack, for files as large as the model.
    pub per_expert: bool,
}

/// What is told while it works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CalibrateProgress {
    /// An earlier run has finished so many layers.
    Resumed {
        /// Layers.
        layers: usize,
    },
    /// Done so far, of 1.
    Done(f64),
}

/// Hears of progress; `false` ends the pass.
pub type CalibrateObserver<'a> = dyn FnMut(CalibrateProgress) -> bool + 'a;

struct Job<'a> {
    source: &'a ModelSource,
    sequences: &'a [Vec<u32>],
    tokens: usize,
    out: &'a Path,
    options: CalibrateOptions,
    observer: &'a mut CalibrateObserver<'a>,
    /// Tokens times halves of layers.
    done: f64,
}

/// Collects what the experts of `source` see of `sequences` in the folder `out`, or goes on with what an earlier run has
/// left there.
///
/// # Errors
/// A folder that holds something else; a model that cannot be read or has no routed experts; whatever the system refuses.
/// Layers that are finished by then are kept for the next run.
pub fn calibrate(
    source: &ModelSource,
    sequences: &[Vec<u32>],
    out: &Path,
    options: CalibrateOptions,
    observer: &mut CalibrateObserver<'_>,
) -> Result<(), CalibrateError> {
    if source.experts().layers.is_empty() {
        return Err(CalibrateError::NoExperts(source.root.clone()));
    }
    let ids: Vec<u32> = sequences.iter().flatten().copied().collect();
    if let Some(&id) = ids.iter().find(|id| **id as usize >= source.shape.vocab) {
        return Err(CalibrateError::Token { id, vocab: source.shape.vocab });
    }
    // an observer that lives as long as the job: it is called through a closure of this function
    let mut observer = |progress: CalibrateProgress| observer(progress);
    let head = CalibrationHead::new(source.fingerprint(), &ids, options.per_expert);
    let tokens = ids.len();
    Job { source, sequences, tokens, out, options, observer: &mut observer, done: 0.0 }.run(head, &ids)
}

impl Job<'_> {
    fn run(&mut self, head: CalibrationHead, ids: &[u32]) -> Result<(), CalibrateError> {
        let Some(mut head) = self.begin(head)? else { return Ok(()) };
        let Shape { hidden, layers, .. } = &self.source.shape;
        let (hidden, layers) = (*hidden, layers.len());
        let moe_layers = self.source.shape.moe_layers();
        let bytes = 3 * self.tokens as u64 * hidden as u64 * 4;
        let available = flashflood_backends::memory::available_memory() / 4;
        let in_memory = bytes <= IN_MEMORY.min(available);
        // the layer that is to be done next is the one whose input was saved last
        let first =
            (0..=layers).rev().find(|layer| self.hidden_file(*layer).is_file() && head.covers(&moe_layers, *layer));
        let first = first.unwrap_or(0);
        head.layers.retain(|file| file.layer < first);
        if first > 0 {
            self.done = (2 * first * self.tokens) as f64;
            (self.observer)(CalibrateProgress::Resumed { layers: first });
        }
        let mut x = match first {
            0 => self.embed(ids, in_memory)?,
            _ => Rows::open(hidden, self.tokens, in_memory, &self.hidden_file(first))?,
        };
        for layer in first..layers {
            let (behind, found) = self.run_layer(layer, &moe_layers, &x, in_memory)?;
            x = behind;
            if let Some(found) = found {
                head.layers.push(self.write_layer(layer, &found)?);
            }
            x.save(&self.hidden_file(layer + 1))?;
            self.write(PROGRESS, &head)?;
            remove(&self.hidden_file(layer))?;
        }
        remove(&self.inputs_file())?;
        self.write(CALIBRATION, &head)?;
        remove(&self.out.join(PROGRESS))?;
        remove(&self.hidden_file(layers))?;
        Ok(())
    }

    /// What is there already of the calibration `head`; `None` where nothing is left to do.
    fn begin(&self, head: CalibrationHead) -> Result<Option<CalibrationHead>, CalibrateError> {
        for (name, is_whole) in [(CALIBRATION, true), (PROGRESS, false)] {
            let path = self.out.join(name);
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(source) => return Err(FileError::io("read", &path)(source).into()),
            };
            let found = CalibrationHead::parse(&path, &text)?;
            let of =
                |head: &CalibrationHead| format!("model {}, {} tokens of text {}", head.model, head.tokens, head.text);
            if of(&found) != of(&head) {
                return Err(FileError::new(&path, "", of(&head), of(&found))
                    .hint("the folder holds a calibration of another model or text: remove it, or choose another")
                    .into());
            }
            // layers of both kinds in one folder would be no calibration that can be made again
            if found.per_expert != head.per_expert {
                let flag = if found.per_expert { "with" } else { "without" };
                return Err(FileError::new(&path, "per_expert", head.per_expert.to_string(), found.per_expert)
                    .hint(format!(
                        "the folder holds a calibration that was begun {flag} --per-expert: go on {flag} it, remove the \
                         folder, or choose another"
                    ))
                    .into());
            }
            return Ok(Some(found).filter(|_| !is_whole));
        }
        if fs::read_dir(self.out).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(FileError::new(
                self.out,
                "",
                "a folder that does not exist yet, or a calibration",
                "other files",
            )
            .hint("choose another folder")
            .into());
        }
        fs::create_dir_all(self.out).map_err(FileError::io("create", self.out))?;
        self.write(PROGRESS, &head)?;
        Ok(Some(head))
    }

    fn hidden_file(&self, layer: usize) -> PathBuf {
        self.out.join(format!("hidden-{layer:03}.f32"))
    }

    fn inputs_file(&self) -> PathBuf {
        self.out.join("inputs.f32")
    }

    /// The embeddings of all tokens.
    fn embed(&self, ids: &[u32], in_memory: bool) -> Result<Rows, CalibrateError> {
        let width = self.source.shape.hidden;
        let mut x = Rows::new(width, self.tokens, in_memory, &part(&self.hidden_file(0)))?;
        let mut first = 0;
        for ids in ids.chunks(4096) {
            let mut rows = vec![0.0; ids.len() * width];
            rows.par_chunks_exact_mut(width).zip(ids).for_each(|(row, id)| {
                self.source.embedding.unpack_row(*id as usize, row);
            });
            x.write(first, &rows)?;
            first += ids.len();
        }
        x.save(&self.hidden_file(0))?;
        Ok(x)
    }

    /// Takes all tokens from `x` through a layer; its experts' calibration, where it has some.
    fn run_layer(
        &mut self,
        layer: usize,
        moe_layers: &[usize],
        x: &Rows,
        in_memory: bool,
    ) -> Result<(Rows, Option<LayerCalibration>), CalibrateError> {
        let width = self.source.shape.hidden;
        let mut behind = Rows::new(width, self.tokens, in_memory, &part(&self.hidden_file(layer + 1)))?;
        let mut inputs = Rows::new(width, self.tokens, in_memory, &self.inputs_file())?;
        let n = moe_layers.iter().position(|of| *of == layer);
        let experts = n.map_or(0, |n| self.source.experts().layers[n].experts);
        let mut choices: Vec<Vec<Choice>> = vec![Vec::new(); experts];
        let longest = self.sequences.iter().map(Vec::len).max().unwrap_or(0);
        let recording = self.source.recording();
        let runner = LayerRunner::new(recording, layer, longest, STEP.min(longest.max(1)));
        let mut runner = runner.expect("a model's recording begins with tokens");
        let mut first = 0;
        for sequence in self.sequences {
            runner.begin_sequence()?;
            for position in (0..sequence.len()).step_by(STEP) {
                let tokens = STEP.min(sequence.len() - position);
                let mut rows = vec![0.0; tokens * width];
                x.read(first, &mut rows)?;
                let rope = self.source.shape.rope_table(position, tokens);
                if let Some(routed) = runner.run(position, &mut rows, &rope)? {
                    inputs.write(first, &routed.inputs)?;
                    let top_k = routed.ids.len() / tokens;
                    for (i, (id, weight)) in routed.ids.iter().zip(&routed.weights).enumerate() {
                        let token = (first + i / top_k) as u32;
                        let Some(of_expert) = choices.get_mut(*id as usize) else {
                            return Err(CalibrateError::Router { layer, found: *id, experts });
                        };
                        of_expert.push(Choice { token, weight: *weight });
                    }
                }
                behind.write(first, &rows)?;
                first += tokens;
                self.advance(tokens as f64)?;
            }
        }
        let found = match n {
            Some(n) => Some(self.run_experts(n, layer, &choices, &inputs, &mut behind)?),
            None => {
                self.advance(self.tokens as f64)?;
                None
            }
        };
        Ok((behind, found))
    }

    /// So many tokens are through another half of a layer.
    fn advance(&mut self, tokens: f64) -> Result<(), CalibrateError> {
        self.done += tokens;
        let all = (2 * self.tokens * self.source.shape.layers.len()) as f64;
        match (self.observer)(CalibrateProgress::Done((self.done / all).min(1.0))) {
            true => Ok(()),
            false => Err(CalibrateError::Interrupted),
        }
    }

    fn write_layer(&self, layer: usize, found: &LayerCalibration) -> Result<LayerFile, FileError> {
        let name = layer_file(layer);
        let bytes = found.serialise(&self.out.join(&name))?;
        self.write_bytes(&name, &bytes)?;
        Ok(LayerFile { layer, bytes: bytes.len() as u64, xxh3: Checksum(xxh3_64(&bytes)) })
    }

    fn write(&self, name: &str, head: &CalibrationHead) -> Result<(), FileError> {
        let text = serde_json::to_string_pretty(head);
        self.write_bytes(name, text.map_err(FileError::syntax(&self.out.join(name), "not to be written"))?.as_bytes())
    }

    /// Writes a file whole or not at all.
    fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.out.join(name);
        let part = part(&path);
        let written = shared_file_in_place_of(&part).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(FileError::io("write", &part))?;
        fs::rename(&part, &path).map_err(FileError::io("rename to", &path))
    }
}

fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::io("remove", path)(e)),
        _ => Ok(()),
    }
}
