//! The products that the experts of a layer are made of, and their kernels for one token and for many.

use crate::compute::ops::{CooperativeTile, Input, ProductShape, Tile};
use crate::compute::recording::View;
use crate::compute::shaders::{Form, has_variant};
use crate::weights::MatrixPlace;

/// The kernel of one token that scales its products.
pub(super) const ONE_GATE_UP: &str = "expert_gate_up";

/// Products of one token, of many, and of many by matrix units, as places in [`Product::kernels`].
pub(super) const ONE_TOKEN: usize = 0;
pub(super) const MANY_TOKENS: usize = 1;
pub(super) const ON_MATRIX_UNITS: usize = 2;

/// What stages do.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Product(Product),
    /// SwiGLU of the products of gate and up.
    Swiglu(View),
}

/// A product of a matrix of each expert.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) kernels: [&'static str; 3],
    pub(super) place: MatrixPlace,
    pub(super) x: Input,
    /// Rows of the output.
    pub(super) rows: usize,
    pub(super) out: View,
}

impl Product {
    /// That of many tokens on a device whose matrix units multiply activations in this form, if it has any.
    pub(super) fn many(&self, cooperative: Option<Form>) -> usize {
        let (kernel, form, format) = (self.kernels[ON_MATRIX_UNITS], self.x.form(), self.place.format.suffix());
        if cooperative == Some(form) && has_variant(kernel, form, format) { ON_MATRIX_UNITS } else { MANY_TOKENS }
    }

    pub(super) fn shape(&self, which: usize) -> ProductShape {
        ProductShape::new(self.kernels[which], self.x.form(), self.place.format, self.rows, self.place.cols)
    }

    /// WGSL constants of that of many tokens, `shape`, for number `kind` of the tiles.
    pub(super) fn tile_constants(&self, shape: ProductShape, kind: usize) -> Vec<(&'static str, f64)> {
        let (mut constants, threads) = match shape.kernel == self.kernels[ON_MATRIX_UNITS] {
            true => {
                let tile = CooperativeTile::expert(shape.form)[kind];
                (shape.cooperative_constants(tile), tile.threads())
            }
            false => (shape.tile_constants(Tile::EXPERT[kind]), Tile::EXPERT[kind].threads()),
        };
        constants.extend(self.gates().then_some(("quantisers", threads as f64)));
        constants
    }

    /// Whether SwiGLU is part of it.
    pub(super) fn gates(&self) -> bool {
        self.place.rows != self.rows
    }
}
