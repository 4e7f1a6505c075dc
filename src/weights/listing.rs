use super::matrix::{Matrix, Vector};
use super::source::{MatrixRole, VectorRole};
use super::{ExpertLayout, layout::LayerExperts};

/// Everything that a model asked its source for, in that order, by canonical name.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Resident weights, each once.
    pub resident: Vec<Listed>,
    /// The routed experts, by MoE layer.
    pub experts: ExpertLayout,
}

/// A resident weight.
#[derive(Clone, Debug)]
pub enum Listed {
    /// A matrix, as views.
    Matrix {
        /// Canonical.
        name: String,
        /// What it is for.
        role: MatrixRole,
        /// The weights.
        matrix: Matrix,
    },
    /// A vector in f32.
    Vector {
        /// Canonical.
        name: String,
        /// What it is for.
        role: VectorRole,
        /// Outermost dimension first.
        shape: Vec<usize>,
        /// The weights.
        values: Vector,
    },
}

impl Listed {
    /// Its canonical name.
    #[cfg(test)]
    pub(crate) fn name(&self) -> &str {
        match self {
            Listed::Matrix { name, .. } | Listed::Vector { name, .. } => name,
        }
    }

    /// The part of a model that it is counted with.
    pub fn part(&self) -> &'static str {
        match self {
            Listed::Matrix { role, .. } => role.part(),
            Listed::Vector { role, .. } => role.part(),
        }
    }
}

impl Listing {
    /// A matrix by its canonical name.
    pub fn matrix(&self, name: &str) -> Option<&Matrix> {
        self.resident.iter().find_map(|listed| match listed {
            Listed::Matrix { name: found, matrix, .. } if found == name => Some(matrix),
            _ => None,
        })
    }

    /// A vector by its canonical name.
    #[cfg(test)]
    pub(crate) fn vector(&self, name: &str) -> Option<&Vector> {
        self.resident.iter().find_map(|listed| match listed {
            Listed::Vector { name: found, values, .. } if found == name => Some(values),
            _ => None,
        })
    }

    /// All matrices with their roles.
    #[cfg(test)]
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (&Matrix, MatrixRole)> {
        self.resident.iter().filter_map(|listed| match listed {
            Listed::Matrix { matrix, role, .. } => Some((matrix, *role)),
            Listed::Vector { .. } => None,
        })
    }

    /// Parameters of the experts of one layer, all of them, and of those of one token.
    pub fn expert_parameters(layer: &LayerExperts) -> (u64, u64) {
        let one: u64 = layer.slot.matrices().map(|(_, place)| place.rows as u64 * place.cols as u64).sum();
        (one * layer.experts as u64, one * layer.top_k as u64)
    }
}
