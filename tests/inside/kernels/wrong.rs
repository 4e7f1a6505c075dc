//! The comparison sees what it is there to see: the smallest wrong weight, and each way to break a rule.

use std::sync::Arc;

use crate::compute::cpu::CpuMemory;
use crate::compute::ops::{Matmul, RmsNorm, RowsOf};
use crate::compute::shaders::Form;
use crate::compute::{Dispatch, Kernel, Op, Phase, Recording, ResidentLayout, ShapeError, Stage, Step, View};
use crate::weights::{ExpertFile, WeightFormat};

use super::experts::{layout, routed};
use super::random::{Random, formats};
use super::trial::Trial;

/// A product in `format`; the lowest bit of the middle code is flipped if it is to be `wrong`.
fn product(format: WeightFormat, form: Form, wrong: bool) -> Trial {
    let mut trial = Trial::new(7, 3);
    let (rows, cols) = (11, 512);
    let mut matrix = trial.random.matrix(format, rows, cols);
    if wrong {
        let block = &mut matrix.blocks[0];
        let mut codes = block.streams[0].to_vec();
        let middle = codes.len() / 2;
        // of a dense number the lowest bit is nothing, the highest below the sign an exponent's
        match format {
            WeightFormat::Affine(_) | WeightFormat::Block(_) | WeightFormat::Scaled(_) => codes[middle] ^= 1,
            WeightFormat::Dense(dense) => codes[middle / dense.bytes() * dense.bytes() + dense.bytes() - 1] ^= 1,
        }
        block.streams[0] = codes.into();
    }
    let (x, out) = (trial.tensor(1, cols), trial.tensor(1, rows));
    let matrix = trial.this_matrix(matrix);
    let x = if form == Form::Int8 { trial.quantised(x, format) } else { x.into() };
    trial.push(Matmul { x, matrix, out, accumulate: false, exact: false, rows: RowsOf::Tokens, unscaled: None });
    trial.within(out, super::matmul::atol(cols), 1e-6);
    trial
}

fn assert_caught(what: &str, right: &Trial, wrong: &Trial) {
    let ([gpu], [cpu]) = (right.on_gpu(false, [(Phase::Prefill, &[2, 1])]), right.on_cpu([(Phase::Prefill, &[2, 1])]));
    right.compare(&cpu, &gpu, false).unwrap();
    let [cpu] = wrong.on_cpu([(Phase::Prefill, &[2, 1])]);
    let outcome = right.compare(&cpu, &gpu, false);
    println!("{what}: {outcome:?}");
    assert!(outcome.is_err(), "{what}: not seen");
}

#[test]
fn one_wrong_code() {
    for name in ["f32", "f16", "bf16", "q2", "q3", "q4", "q5", "q6", "q8"] {
        let format = Random::new(1).one_of(&formats(name));
        for form in [Form::F32, Form::Int8] {
            assert_caught(&format!("{format} {form:?}"), &product(format, form, false), &product(format, form, true));
        }
    }
}

#[test]
fn one_wrong_code_of_an_expert() {
    let build = |wrong: bool| {
        let mut random = Random::new(2);
        let mut layout = layout(&mut random, 3, &[[4, 4, 8].map(|bits| WeightFormat::affine(bits, 64))]);
        let at = layout.layers[0].slot.down.streams[0] + 5;
        if let (true, ExpertFile::Memory { bytes, .. }) = (wrong, &mut layout.files[0]) {
            let mut changed = bytes.to_vec();
            changed[at] ^= 8;
            *bytes = changed.into();
        }
        // every expert is chosen by every token
        routed(2, layout, 3, 3, 2, Form::F32)
    };
    assert_caught("expert", &build(false), &build(true));
}

/// What a kernel must not do.
#[derive(Clone, Copy, Debug)]
enum Mistake {
    AnotherToken,
    Padding,
    AnotherTensor,
    LengthOfStep,
}

/// A norm whose CPU twin makes a mistake.
struct Mistaken {
    norm: RmsNorm,
    mistake: Mistake,
    bystander: View,
}

impl Kernel for Mistaken {
    fn name(&self) -> &'static str {
        self.norm.name()
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        self.norm.check(recording)
    }

    fn outputs(&self) -> Vec<View> {
        self.norm.outputs()
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        self.norm.run_on_cpu(memory, step);
        let out = self.norm.out;
        let (view, at) = match self.mistake {
            Mistake::AnotherToken => (out, step.tokens * out.stride),
            Mistake::Padding => (out, out.width),
            Mistake::AnotherTensor => (self.bystander, 0),
            Mistake::LengthOfStep => (out, 0),
        };
        let mut values = memory.take(view.tensor);
        match self.mistake {
            Mistake::LengthOfStep if step.tokens == 1 => values[at] *= 1.0 + f32::EPSILON,
            Mistake::LengthOfStep => {}
            _ => {
                if let Some(value) = values.get_mut(at) {
                    *value = 0.0;
                }
            }
        }
        memory.put_back(view.tensor, values);
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        self.norm.stages(resident)
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        self.norm.dispatch(resident, step, out);
    }
}

#[test]
fn every_mistake() {
    for mistake in [
        None,
        Some(Mistake::AnotherToken),
        Some(Mistake::Padding),
        Some(Mistake::AnotherTensor),
        Some(Mistake::LengthOfStep),
    ] {
        let mut trial = Trial::new(3, 3);
        // columns behind those that the norm writes
        let out = trial.tensor(1, 15).columns(0, 12);
        let (x, bystander) = (trial.tensor(1, 12), trial.tensor(1, 2));
        let weight = trial.vector(12, 0.5, 1.0);
        let norm = RmsNorm { x, weight, out, packed: None, eps: 1e-6 };
        match mistake {
            Some(mistake) => trial.push(Op::Other(Arc::new(Mistaken { norm, mistake, bystander }))),
            None => trial.push(norm),
        }
        trial.within(out, 1e-6, 1e-6);
        let outcome = trial.check(&[3, 2]);
        println!("{mistake:?}: {outcome:?}");
        assert_eq!(outcome.is_ok(), mistake.is_none(), "{mistake:?}");
    }
}
