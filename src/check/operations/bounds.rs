//! How far an operation's numbers may be from the CPU's.

use flashflood_formats::CacheFormat;

use super::{Operation, Pair};
use crate::check::compare::Bound;
use crate::compute::{Op, Recorded};

impl Operation<'_> {
    /// Whether matrix units make some of it.
    fn is_cooperative(&self) -> bool {
        self.shaders.iter().any(|shader| shader.contains("_cooperative"))
    }

    /// What attention may be apart where a number of the cache got the next code.
    pub(super) fn with_other_codes(&self, formats: [CacheFormat; 2]) -> Bound {
        self.or_on_matrix_units(Bound::attention_to_other_codes(formats), Bound::COOPERATIVE)
    }

    /// `bound`, or as much as `on_matrix_units` where these make some of it.
    pub(super) fn or_on_matrix_units(&self, bound: Bound, on_matrix_units: Bound) -> Bound {
        if self.is_cooperative() { bound.or(on_matrix_units) } else { bound }
    }
}

impl Pair<'_> {
    /// What an operation's numbers may be apart; `None`: equal to the bit.
    pub(super) fn bound(&self, operation: &Operation<'_>, op: &str) -> Option<Bound> {
        if let Recorded::Experts(experts) = operation.recorded {
            let cols = experts.slot.gate.cols.max(experts.slot.down.cols);
            let bound = Bound::experts(cols, experts.hidden.packed().is_some());
            return Some(operation.or_on_matrix_units(bound, Bound::COOPERATIVE_CHAIN));
        }
        if operation.is_cooperative() {
            let is_chain = matches!(operation.recorded, Recorded::Kernel { kernel: Op::DeltaNet(_), .. });
            return Some(if is_chain { Bound::COOPERATIVE_CHAIN } else { Bound::COOPERATIVE });
        }
        if let (Recorded::Kernel { kernel: Op::CombineNorm(combine), .. }, true) =
            (operation.recorded, operation.shaders.iter().any(|shader| shader.starts_with("expert_down_combine")))
        {
            return combine.down.map(|down| Bound::product_and_norm(down.place.cols));
        }
        if let Recorded::Kernel { kernel: Op::MatmulNorm(op), .. } = operation.recorded {
            return Some(Bound::product_and_norm(self.recording.matrices[op.product.matrix.0].cols));
        }
        match self.gpu.products_of(operation.index).first() {
            Some(product) => Some(Bound::product(product.cols)),
            None => Some(Bound::of_op(op)).filter(|bound| *bound != Bound::EXACT),
        }
    }
}
