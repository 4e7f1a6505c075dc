//! Products of one input whose outputs lie side by side become one product of the matrices one under the other.

use super::plain;
use crate::compute::op::Op;
use crate::compute::ops::{Matmul, RowsOf};
use crate::compute::recording::{MatrixId, Recorded, Recording};
use crate::compute::shaders::Form;
use crate::weights::Matrix;

/// Joins what follows one another in the list. Weights of several formats, or of which some are multiplied with 8 bits and
/// some must not be, stay several products.
pub(super) fn products(recording: &mut Recording, activations: Form) {
    let steps = std::mem::take(&mut recording.steps);
    let matrices = std::mem::take(&mut recording.matrices);
    let goes_on = |a: &Recorded, b: &Recorded| is_continued(a, b, &matrices, activations);
    for run in steps.chunk_by(goes_on) {
        let recorded = match run {
            [one] => one.clone(),
            _ => joined(run, &matrices, recording),
        };
        recording.steps.push(recorded);
    }
    keep_matrices(recording, matrices);
}

/// Marks matrices of the old list, whose ids are renumbered when all are known.
const JOINED: usize = usize::MAX / 2;

fn product(recorded: &Recorded) -> Option<(&str, &Matmul)> {
    match recorded {
        Recorded::Kernel { label, kernel: Op::Matmul(product) } => Some((label, product)),
        _ => None,
    }
}

/// What the weights of a product are multiplied with.
fn form(product: &Matmul, matrix: &Matrix, activations: Form) -> Form {
    match matrix.format.interleave() {
        Some(_) if !product.exact => activations,
        _ => Form::F32,
    }
}

fn is_continued(a: &Recorded, b: &Recorded, matrices: &[Matrix], activations: Form) -> bool {
    let (Some((a_label, a)), Some((b_label, b))) = (product(a), product(b)) else { return false };
    let (m, n) = (&matrices[a.matrix.0], &matrices[b.matrix.0]);
    a_label == b_label
        && plain(&a.x).is_some_and(|x| plain(&b.x) == Some(x))
        && a.out.tensor == b.out.tensor
        && a.out.offset + a.out.width == b.out.offset
        && ![a, b].iter().any(|product| product.accumulate || product.rows != RowsOf::Tokens)
        && (m.format, m.cols) == (n.format, n.cols)
        && form(a, m, activations) == form(b, n, activations)
}

/// One product for all of `run`; its matrix is appended to the recording's.
fn joined(run: &[Recorded], matrices: &[Matrix], recording: &mut Recording) -> Recorded {
    let products: Vec<&Matmul> = run.iter().filter_map(product).map(|(_, product)| product).collect();
    let parts: Vec<&Matrix> = products.iter().map(|product| &matrices[product.matrix.0]).collect();
    let name = parts.iter().map(|matrix| matrix.name.as_str()).collect::<Vec<_>>().join(" | ");
    let stacked = Matrix::stack(&name, &parts).expect("a run has one format and width");
    let first = products[0];
    let out = crate::compute::View { width: stacked.rows, ..first.out };
    let exact = products.iter().any(|product| product.exact);
    recording.matrices.push(stacked);
    let matrix = MatrixId(JOINED + recording.matrices.len() - 1);
    let label = product(&run[0]).map_or_else(String::new, |(label, _)| label.to_owned());
    Recorded::Kernel { label, kernel: Matmul { out, exact, matrix, ..first.clone() }.into() }
}

/// Leaves the matrices that products still name, each once, in the order of their first use.
fn keep_matrices(recording: &mut Recording, plain: Vec<Matrix>) {
    let joined = std::mem::take(&mut recording.matrices);
    let mut kept: Vec<usize> = Vec::new();
    for recorded in &mut recording.steps {
        let Recorded::Kernel { kernel: Op::Matmul(product), .. } = recorded else { continue };
        let old = product.matrix.0;
        let new = kept.iter().position(|known| *known == old).unwrap_or_else(|| {
            kept.push(old);
            kept.len() - 1
        });
        product.matrix = MatrixId(new);
    }
    let matrix = |old: usize| match old.checked_sub(JOINED) {
        Some(index) => joined[index].clone(),
        None => plain[old].clone(),
    };
    recording.matrices = kept.into_iter().map(matrix).collect();
}
