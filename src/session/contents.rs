//! What every layer holds, for tests against a reference.

use super::{Session, SessionError};
use crate::compute::LayerState;
use crate::compute::ops::conv_inputs;

/// What a layer holds after some tokens.
#[derive(Clone, Debug)]
pub(crate) enum LayerContents {
    /// `[positions, kv_heads * head_dim]` each.
    Attention {
        /// Normed and rotated.
        keys: Vec<f32>,
        /// As projected.
        values: Vec<f32>,
    },
    /// Gated delta-net.
    DeltaNet {
        /// `[taps - 1, channels]`
        conv: Vec<f32>,
        /// `[value_heads, key_dim, value_dim]`
        recurrent: Vec<f32>,
    },
}

impl Session<'_> {
    /// What every layer holds now.
    pub(crate) fn contents(&mut self) -> Result<Vec<LayerContents>, SessionError> {
        let positions = self.tokens.len();
        let engine = &mut *self.engine;
        let mut all = Vec::new();
        for state in &engine.state {
            all.push(match *state {
                LayerState::Attention { kv } => {
                    let mut read = |stream| engine.runner.read_cache_rows(kv, stream, 0..positions);
                    let [keys, values] = [read(0)?, read(1)?].map(|rows| bytemuck::pod_collect_to_vec(&rows));
                    LayerContents::Attention { keys, values }
                }
                LayerState::DeltaNet { conv, recurrent, shape } => {
                    let states = engine.runner.read_states(&[conv.tensor, recurrent.tensor])?;
                    let [conv, recurrent] = states.try_into().expect("as many as were asked for");
                    LayerContents::DeltaNet { conv: conv_inputs(&shape, &conv), recurrent }
                }
            });
        }
        Ok(all)
    }
}
