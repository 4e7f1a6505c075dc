//! The order in which a layer's experts are brought in and computed, and how many at a time.
//!
//! One token needs few experts, which all have slots at once. A chunk of a prompt needs most experts of a layer, often
//! more than there are slots: it sweeps through them in windows, each expert read once at most. A window is read while
//! the one before is computed, so two of them share the slots.

/// What is to be done for each expert of a layer, in the order in which it is done.
pub struct Sweep<T> {
    order: Vec<T>,
    window: usize,
    overlaps: bool,
}

impl<T> Sweep<T> {
    /// `all` come in the order of the file. Those in memory go first, so that nothing that is read takes the place of one
    /// that is still to be computed; the others stay in the order of the file. The layer has `slots` slots.
    pub fn new(all: Vec<T>, slots: usize, is_there: impl FnMut(&T) -> bool) -> Self {
        let (mut order, missing): (Vec<T>, Vec<T>) = all.into_iter().partition(is_there);
        order.extend(missing);
        let window = if order.len() <= slots { slots } else { slots / 2 };
        Sweep { order, window: window.max(1), overlaps: slots > 1 }
    }

    /// What is acquired together.
    pub fn windows(&self) -> std::slice::Chunks<'_, T> {
        self.order.chunks(self.window)
    }

    /// Whether the slots hold two windows.
    pub fn overlaps(&self) -> bool {
        self.overlaps
    }
}
