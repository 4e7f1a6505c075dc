use crate::compute::kernel::{Binding, Dispatch, Resource, Stage, params};
use crate::compute::recording::TensorId;
use crate::compute::step::LogitsSummary;

/// Entries that one workgroup looks at.
const RUN: usize = LogitsSummary::RUN;

/// The largest logits of one row, found on the GPU in passes over runs of 1,024: a large vocabulary takes three.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogitsTopK {
    /// How many, at most [`LogitsTopK::MOST`].
    pub top_k: usize,
    /// Entries of the row that are tokens; those behind are padding.
    pub vocab: usize,
    /// First element of the row.
    pub offset: usize,
    /// What logits are divided by before they are added up.
    pub temperature: f32,
}

impl LogitsTopK {
    /// Most candidates: a pass must make less than it reads.
    pub(crate) const MOST: usize = 256;

    /// Stage 0 is the first pass, from the logits to the first scratch buffer; 1 goes from there to the second, 2 back.
    pub(crate) fn stages(logits: TensorId) -> [Stage; 3] {
        let (first, second) = (Resource::Scratch, Resource::Scratch2);
        [(Resource::Tensor(logits), first), (first, second), (second, first)].map(|(from, to)| Stage {
            shader: "logits_top_k",
            constants: vec![],
            groups: vec![vec![Binding::read(from), Binding::write(to), Binding::write(Resource::Totals)]],
        })
    }

    /// The passes: even ones (from 0) write the first scratch buffer, odd ones the second; the first reads the logits.
    /// Also tells which holds the result.
    pub(crate) fn dispatches(&self) -> (Vec<Dispatch>, usize) {
        let mut out = Vec::new();
        let mut count = self.vocab;
        loop {
            let pass = out.len();
            let runs = count.div_ceil(RUN);
            let stage = if pass == 0 { 0 } else { 2 - pass % 2 };
            let immediates = params! {
                count: count as u32,
                top_k: self.top_k as u32,
                first_pass: u32::from(pass == 0),
                x_offset: self.offset as u32,
                inverse_temperature: (1.0 / self.temperature).to_bits(),
            };
            out.push(Dispatch::new(stage, 0, immediates, [runs as u32, 1, 1]));
            if runs == 1 {
                return (out, pass % 2);
            }
            count = runs * self.top_k;
        }
    }

    /// Runs of a vocabulary, of which each has a total.
    pub(crate) fn runs(vocab: usize) -> usize {
        vocab.div_ceil(RUN)
    }

    /// Entries that the first pass writes for a vocabulary.
    pub(crate) fn scratch_entries(vocab: usize) -> usize {
        vocab.div_ceil(RUN) * Self::MOST
    }

    /// The CPU twin.
    pub(crate) fn on_cpu(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let row = &logits[self.offset..][..self.vocab];
        let mut order: Vec<u32> = (0..row.len() as u32).filter(|&i| !row[i as usize].is_nan()).collect();
        let before = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
        let k = self.top_k.min(order.len());
        if k == 0 {
            return Vec::new();
        }
        order.select_nth_unstable_by(k - 1, before);
        order.truncate(k);
        order.sort_unstable_by(before);
        order.into_iter().map(|i| (i, row[i as usize])).collect()
    }
}
