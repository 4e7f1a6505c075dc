use crate::compute::View;
use crate::compute::ops::{Combine, Experts, GateUpApart, Route, RouterRule, RouterTopK, Swiglu};
use crate::model::recorder::{Projection, RecordError, Recorder};
use crate::model::shape::MoeShape;
use crate::weights::{ExpertShape, MatrixRole};

/// `x += sum of weight * expert(normed) over the chosen experts + sigmoid(gate) * shared(normed)`.
pub(crate) fn moe(r: &mut Recorder<'_>, shape: &MoeShape, normed: View, x: View) -> Result<(), RecordError> {
    let &MoeShape { experts, top_k, width, renormalise, shared } = shape;
    let hidden = normed.width;
    // which experts a token gets hangs on small differences: neither the router nor a gate is rounded
    let mut parts = vec![Projection::exact("router", experts, MatrixRole::Router)];
    if let Some(width) = shared {
        parts.push(Projection::exact("shared.scalar_gate", 1, MatrixRole::SharedGate));
        parts.push(Projection::new("shared.gate", width, MatrixRole::SharedExpert));
        parts.push(Projection::new("shared.up", width, MatrixRole::SharedExpert));
    }
    let (whole, views) = r.project("router", normed, &parts)?;
    let shared_hidden = match shared {
        Some(width) => {
            let gate_up = whole.columns(whole.width - 2 * width, 2 * width);
            let out = r.tensor("shared_hidden", 1, width);
            r.push("shared_hidden", Swiglu { gate_up, out: out.into() })?;
            Some(out)
        }
        None => None,
    };
    let layer = r.begin_experts(&ExpertShape { experts, top_k, hidden, width })?;
    let (ids, weights) = (r.ids("ids", top_k), r.tensor("weights", 1, top_k));
    r.push(
        "route",
        RouterTopK { layer, logits: views[0], ids, weights, rule: RouterRule::softmax(renormalise), shared: None },
    )?;
    r.route(Route { layer, ids, ahead: None });
    // the shared expert does not wait for the router's choice: it runs while experts are read
    let shared_out = match shared_hidden {
        Some(hidden) => {
            Some((r.product("shared_out", hidden, "shared.down", MatrixRole::SharedExpert)?, Some(views[1])))
        }
        None => None,
    };
    let expert_hidden = r.tensor("expert_hidden", top_k, width);
    let routed = r.tensor("routed", top_k, hidden);
    let slot = r.slot(layer);
    let apart = match slot.gate_up() {
        Some(_) => None,
        None => Some(GateUpApart { x: normed.into(), products: r.tensor("expert_gate_up", top_k, 2 * width) }),
    };
    r.experts(Experts {
        layer,
        slot,
        x: normed.into(),
        apart,
        hidden: expert_hidden.into(),
        out: routed,
        unscaled: None,
        combined: false,
    })?;
    r.push("out", Combine { x, routed, weights, shared: shared_out })
}
