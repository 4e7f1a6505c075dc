//! The operations there are, as one type: what a recording holds, and what lowering looks into.

use std::ops::Deref;
#[cfg(test)]
use std::sync::Arc;

use super::kernel::Kernel;
use super::ops::{
    Attention, Combine, CombineNorm, DeltaNet, Input, Matmul, MatmulNorm, Quantise, RmsNorm, RouterTopK, StreamRead,
    Swiglu,
};
use super::recording::View;

/// What an operation does with an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Reads it.
    Read,
    /// Writes all columns of the view, whatever was there.
    Write,
    /// Reads what is there and writes it.
    Update,
}

/// A tensor of activations or state that an operation touches.
pub(crate) type Operand<'a> = (Use, &'a mut View);

impl Input {
    /// The columns of the tensor that hold them, to be put elsewhere.
    pub(crate) fn view_mut(&mut self) -> &mut View {
        match self {
            Input::F32(view) => view,
            Input::Int8(quantised) => &mut quantised.words,
        }
    }
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// An operation with its operands.
        #[derive(Clone)]
        pub(crate) enum Op {
            $($(#[$doc])* $name($name),)*
            /// One that lowering leaves as it is, and whose tensors it does not know: for tests of executors.
            #[cfg(test)]
            Other(Arc<dyn Kernel>),
        }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Self {
                Op::$name(op)
            }
        })*

        impl Deref for Op {
            type Target = dyn Kernel;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(Op::$name(op) => op,)*
                    #[cfg(test)]
                    Op::Other(op) => op.as_ref(),
                }
            }
        }

        impl Op {
            /// The tensors that it touches, in the order in which it names them.
            pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
                match self {
                    $(Op::$name(op) => op.operands(),)*
                    #[cfg(test)]
                    Op::Other(_) => Vec::new(),
                }
            }
        }
    };
}

operations! {
    /// Softmax attention over a KV cache.
    Attention,
    /// Routed and shared experts onto the residual stream.
    Combine,
    /// The same, and a norm.
    CombineNorm,
    /// The gated delta rule.
    DeltaNet,
    /// A product with weights.
    Matmul,
    /// The same onto the residual stream, and a norm.
    MatmulNorm,
    /// Activations in 8 bits.
    Quantise,
    /// RMS norm.
    RmsNorm,
    /// The router's choice.
    RouterTopK,
    /// Reads memory and nothing else.
    StreamRead,
    /// `silu(gate) * up`.
    Swiglu,
}
