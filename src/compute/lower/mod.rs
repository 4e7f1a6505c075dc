//! From the plain operations that a model records to those that run fastest: the same numbers but for caches, in fewer kernels.
//!
//! - [`cache`]: keys and values in the format that they are kept in
//! - [`guess`]: what the next layer's router will probably choose, where experts are read ahead
//! - [`join`]: products of one input side by side become one product
//! - [`fuse`]: neighbours that one kernel does together
//! - [`pack`]: activations in 8 bits where weights are multiplied with those
//! - [`unscaled`]: norms in two halves, taken by what writes a row and by what reads it
//! - [`reuse`]: one tensor for all that are not needed at the same time
//!
//! The plain list runs on every device too, and is what tests hold the lowered one against.

mod cache;
mod fuse;
mod guess;
mod join;
mod pack;
mod reuse;
mod unscaled;

pub use cache::KvFormat;

use super::ops::Input;
use super::recording::{Recorded, Recording, ShapeError};
use super::shaders::Form;

/// What a recording is lowered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lowering {
    /// What products multiply weights with that can be multiplied with 8 bits.
    pub activations: Form,
    /// Whether every layer guesses what the next one's router will choose.
    pub look_ahead: bool,
    /// Whether tokens of decode take norms in two halves: for devices where an operation costs a wait. A token has other bits
    /// in a prompt then.
    pub unscaled: bool,
    /// How keys and values are kept.
    pub kv: KvFormat,
}

/// Lowers a plain recording.
///
/// # Errors
/// Operands that do not fit together: a mistake in a model or here.
pub(crate) fn lower(mut recording: Recording, how: Lowering) -> Result<Recording, ShapeError> {
    cache::formats(&mut recording, how.kv);
    if how.look_ahead {
        guess::insert(&mut recording);
    }
    join::products(&mut recording, how.activations);
    fuse::neighbours(&mut recording);
    if how.activations == Form::Int8 {
        pack::activations(&mut recording);
    }
    if how.unscaled {
        unscaled::norms(&mut recording);
        fuse::last_products(&mut recording);
    }
    reuse::tensors(&mut recording);
    recording.check()?;
    Ok(recording)
}

impl Recording {
    /// Holds the shapes of all operations against each other.
    fn check(&self) -> Result<(), ShapeError> {
        self.steps.iter().try_for_each(|recorded| match recorded {
            Recorded::Kernel { label, kernel } => {
                kernel.check(self).map_err(|e| ShapeError { label: label.clone(), ..e })
            }
            Recorded::Experts(op) => op.check(self),
            Recorded::Route(_) | Recorded::LayerDone(_) => Ok(()),
        })
    }
}

/// The view of activations as they are.
fn plain(input: &Input) -> Option<super::View> {
    match input {
        Input::F32(view) => Some(*view),
        Input::Int8(_) => None,
    }
}
