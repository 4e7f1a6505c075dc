use crate::compute::View;
use crate::compute::ops::Swiglu;
use crate::model::recorder::{Projection, RecordError, Recorder};
use crate::weights::MatrixRole;

/// `x += down(silu(gate(normed)) * up(normed))`, `width` wide.
pub(crate) fn feed_forward(r: &mut Recorder<'_>, width: usize, normed: View, x: View) -> Result<(), RecordError> {
    let role = MatrixRole::FeedForward;
    let parts = [Projection::new("ffn.gate", width, role), Projection::new("ffn.up", width, role)];
    let (gate_up, _) = r.project("gate_up", normed, &parts)?;
    let hidden = r.tensor("ffn_hidden", 1, width);
    r.push("swiglu", Swiglu { gate_up, out: hidden.into() })?;
    r.add_product("out", hidden, "ffn.down", role, x)
}
