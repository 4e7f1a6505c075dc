use std::ops::Range;

use flashflood_formats::{Int8Rows, TokenRows, pack_row};
use rayon::prelude::*;

use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, at_least, row};
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, TensorId, View, expect};
use crate::compute::shaders::Form;

/// Activations in 8 bits, with a scale for every 32 columns: what products with integers read.
///
/// A row is `cols / 4` words of codes, then `cols / 32` pairs of f32 (scale, scale * sum of the codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantised {
    /// `[rows, cols / 4 + cols / 16]` words, a whole tensor.
    pub words: View,
    /// Activations in a row.
    pub cols: usize,
    /// Columns between the four codes of a word: [`crate::weights::WeightFormat::interleave`].
    pub interleave: usize,
}

/// What a product multiplies weights with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// `[rows, cols]` in f32.
    F32(View),
    /// In 8 bits.
    Int8(Quantised),
}

impl From<View> for Input {
    fn from(view: View) -> Self {
        Input::F32(view)
    }
}

impl From<Quantised> for Input {
    fn from(quantised: Quantised) -> Self {
        Input::Int8(quantised)
    }
}

impl Input {
    /// Their 8 bits, if that is what they are.
    pub(crate) fn packed(&self) -> Option<Quantised> {
        match self {
            Input::F32(_) => None,
            Input::Int8(quantised) => Some(*quantised),
        }
    }

    /// Activations in a row.
    pub(crate) fn cols(&self) -> usize {
        match self {
            Input::F32(view) => view.width,
            Input::Int8(quantised) => quantised.cols,
        }
    }

    /// The columns of the tensor that hold them.
    pub(crate) fn view(&self) -> View {
        match self {
            Input::F32(view) => *view,
            Input::Int8(quantised) => quantised.words,
        }
    }

    /// Which kernels read them.
    pub(crate) fn form(&self) -> Form {
        match self {
            Input::F32(_) => Form::F32,
            Input::Int8(_) => Form::Int8,
        }
    }

    /// Calls `product` with `rows` of them.
    pub(crate) fn on_cpu<R>(
        &self,
        memory: &CpuMemory,
        rows: impl Iterator<Item = usize>,
        product: impl FnOnce(TokenRows<'_>) -> R,
    ) -> R {
        let tensor = memory.tensor(self.view().tensor);
        self.of_rows(rows.map(|r| row(tensor, self.view(), r)).collect(), product)
    }

    /// The same for rows that are at hand.
    pub(crate) fn of_rows<R>(&self, rows: Vec<&[f32]>, product: impl FnOnce(TokenRows<'_>) -> R) -> R {
        match self {
            Input::F32(_) => product(TokenRows::F32(&rows)),
            Input::Int8(q) => product(TokenRows::Int8(&Int8Rows::new(&rows, q.cols, q.interleave))),
        }
    }

    /// Fails unless 8-bit activations are packed as weights with `interleave` want.
    pub(crate) fn check(&self, op: &'static str, interleave: Option<usize>) -> Result<(), ShapeError> {
        match self {
            Input::F32(view) => expect(op, "offset of x beyond 4 elements", 0, view.offset % 4),
            Input::Int8(q) => {
                expect(op, "offset of quantised x", 0, q.words.offset)?;
                expect(op, "words of quantised x", Quantised::words(q.cols), q.words.width)?;
                expect(op, "interleave of quantised x", interleave.unwrap_or(0), q.interleave)
            }
        }
    }
}

impl Quantised {
    /// Words of a row of `cols` activations.
    pub(crate) fn words(cols: usize) -> usize {
        cols / 4 + cols / 16
    }

    /// WGSL constants of a kernel of `threads` threads a workgroup that packs its output, if it does.
    pub(crate) fn constants(packed: Option<Quantised>, threads: usize) -> Vec<(&'static str, f64)> {
        let Some(packed) = packed else { return vec![("quantisers", 8.0)] };
        vec![("pack", 1.0), ("interleave", packed.interleave as f64), ("quantisers", threads as f64)]
    }

    /// The row of a tensor of these that belongs to row `t`, filled with `x`.
    pub(crate) fn pack_on_cpu(&self, words: &mut [f32], t: usize, x: &[f32]) {
        pack_row(x, self.interleave, &mut words[t * self.words.stride..][..self.words.stride]);
    }

    /// The same for some rows of `x`, which `view` names.
    pub(crate) fn pack_rows_on_cpu(&self, words: &mut [f32], x: &[f32], view: View, rows: Range<usize>) {
        let words = words.par_chunks_mut(self.words.stride).enumerate().skip(rows.start).take(rows.len());
        words
            .with_min_len(at_least(self.cols))
            .for_each(|(t, words)| pack_row(row(x, view, t), self.interleave, words));
    }

    /// Adds a tensor for `rows` rows of `cols` activations per token.
    pub(crate) fn tensor(
        recording: &mut Recording,
        label: &str,
        rows: usize,
        cols: usize,
        interleave: usize,
    ) -> Quantised {
        let words = recording.words(format!("{label}.int8"), rows, Quantised::words(cols));
        Quantised { words, cols, interleave }
    }
}

impl Recording {
    /// `x` in 8 bits: quantised once for all products until an operation writes the tensor of `x` again.
    pub(crate) fn quantised(&mut self, x: View, interleave: usize) -> Result<Quantised, ShapeError> {
        let known = self.quantised.iter().position(|known| known.x == x && known.out.interleave == interleave);
        let at = match known {
            Some(at) if self.quantised[at].is_current => return Ok(self.quantised[at].out),
            Some(at) => at,
            None => {
                let label = self.spec(x.tensor).label.clone();
                let out = Quantised::tensor(self, &label, x.rows_per_token, x.width, interleave);
                self.quantised.push(Known { x, out, is_current: false });
                self.quantised.len() - 1
            }
        };
        let out = self.quantised[at].out;
        self.push(self.spec(out.words.tensor).label.clone(), Quantise { x, out })?;
        self.quantised[at].is_current = true;
        Ok(out)
    }

    /// Forgets what was quantised of a tensor that is written.
    pub(crate) fn outdate(&mut self, written: TensorId) {
        self.quantised.iter_mut().filter(|known| known.x.tensor == written).for_each(|known| known.is_current = false);
    }
}

/// Activations that a recording has in 8 bits.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    x: View,
    out: Quantised,
    is_current: bool,
}

/// Packs activations in 8 bits.
#[derive(Clone)]
pub(crate) struct Quantise {
    /// `[tokens, cols]`
    pub x: View,
    /// The same in 8 bits.
    pub out: Quantised,
}

impl Quantise {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        vec![(Use::Read, &mut self.x), (Use::Write, &mut self.out.words)]
    }
}

impl Kernel for Quantise {
    fn name(&self) -> &'static str {
        "quantise"
    }

    fn check(&self, _: &Recording) -> Result<(), ShapeError> {
        expect(self.name(), "columns beyond groups of 32", 0, self.x.width % 32)?;
        expect(self.name(), "columns of out", self.x.width, self.out.cols)?;
        expect(self.name(), "rows of x per token", 1, self.x.rows_per_token)?;
        Input::Int8(self.out).check(self.name(), Some(self.out.interleave))
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out.words]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut out = memory.take(self.out.words.tensor);
        let x = memory.tensor(self.x.tensor);
        self.out.pack_rows_on_cpu(&mut out, x, self.x, 0..step.tokens);
        memory.put_back(self.out.words.tensor, out);
    }

    fn stages(&self, _: &dyn ResidentLayout) -> Vec<Stage> {
        vec![Stage {
            shader: "quantise",
            constants: vec![("interleave", self.out.interleave as f64)],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.x.tensor)),
                Binding::write(Resource::Tensor(self.out.words.tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let words = self.x.width / 4;
        let immediates = params! {
            words: words as u32,
            x_offset: self.x.offset as u32,
            x_stride: self.x.stride as u32,
            out_stride: self.out.words.stride as u32,
        };
        out.push(Dispatch::new(0, 0, immediates, [words.div_ceil(64) as u32, step.tokens as u32, 1]));
    }
}
