//! Parts of dense matrices. ndarray's `s!` would do, but expands to unsafe code, which this crate forbids.

use std::ops::Range;

use ndarray::{Array2, ArrayBase, ArrayView2, ArrayViewMut2, Axis, Data, Ix2, Slice};

fn of(axis: Axis, rows: &Range<usize>, columns: &Range<usize>) -> Slice {
    let range = if axis == Axis(0) { rows } else { columns };
    Slice::from(range.clone())
}

/// Some rows and columns.
pub(crate) fn block<S: Data>(
    matrix: &ArrayBase<S, Ix2>,
    rows: Range<usize>,
    columns: Range<usize>,
) -> ArrayView2<'_, S::Elem> {
    matrix.slice_each_axis(|axis| of(axis.axis, &rows, &columns))
}

/// The same, to write.
pub(crate) fn block_mut<A>(matrix: &mut Array2<A>, rows: Range<usize>, columns: Range<usize>) -> ArrayViewMut2<'_, A> {
    matrix.slice_each_axis_mut(|axis| of(axis.axis, &rows, &columns))
}

/// The same with rows and columns from last to first.
pub(crate) fn reversed<A>(matrix: &Array2<A>) -> ArrayView2<'_, A> {
    let mut view = matrix.view();
    view.invert_axis(Axis(0));
    view.invert_axis(Axis(1));
    view
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn blocks_are_where_they_should_be() {
        let mut all = array![[1, 2, 3], [4, 5, 6], [7, 8, 9]];
        assert_eq!(block(&all, 1..3, 0..2), array![[4, 5], [7, 8]]);
        assert_eq!(reversed(&all), array![[9, 8, 7], [6, 5, 4], [3, 2, 1]]);
        block_mut(&mut all, 0..1, 1..3).fill(0);
        assert_eq!(all.row(0), array![1, 0, 0]);
    }
}
