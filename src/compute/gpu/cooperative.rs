//! Whether the matrix units of a device do what they say: a product with known numbers, before any of a model.
//!
//! The feature is experimental, in wgpu and in drivers. One product that takes whole tiles and edges, by every tile of
//! the kernel, costs a millisecond or two; so do two chunks of the delta rule, and some tokens of attention.

mod attention;
mod delta_net;

use flashflood_backends::gpu::{Gpu, MatrixUnits};

use super::device::GpuOptions;
use super::pipelines::Pipelines;
use super::readback::Readback;
use super::resident::Resident;
use crate::compute::kernel::{Binding, Dispatch, Immediates, Resource, Stage, params};
use crate::compute::op::Op;
use crate::compute::ops::{Attention, CooperativeTile, ProductShape};
use crate::compute::recording::{Recorded, Recording, TensorId};
use crate::compute::shaders::Form;
use crate::weights::{Affine, ScaleType, WeightFormat};

/// Of the matrix: one more than whole tiles. Columns are an odd number of blocks.
const ROWS: usize = 133;
const COLS: usize = 96;
const BLOCKS: usize = COLS / 32;
const TOKENS: usize = 131;
/// Rows of the output, so that tokens start at whole 16 bytes.
const STRIDE: usize = 136;
const FORMAT: WeightFormat = WeightFormat::Affine(Affine { bits: 4, group: 32, scales: ScaleType::F32 });
/// Words of the codes, and of the scales with what fills them up to 16 bytes.
const CODES: usize = ROWS * BLOCKS * 4;
const SCALES: usize = (ROWS * BLOCKS).next_multiple_of(4);

/// Words of a row of activations.
const fn x_words(form: Form) -> usize {
    match form {
        Form::F32 => COLS,
        Form::Int8 => (COLS / 4 + 2 * BLOCKS).next_multiple_of(4),
    }
}

/// Decides what matrix units make of `recording` in a context of so many positions.
pub(super) fn decide(resident: &mut Resident, gpu: &Gpu, recording: &Recording, context: usize, options: &GpuOptions) {
    let is_delta_net = |step: &Recorded| matches!(step, Recorded::Kernel { kernel: Op::DeltaNet(_), .. });
    let units = gpu.matrix_units.filter(|_| options.cooperative != Some(false));
    resident.cooperative = units.map(Form::of_units).filter(|&form| works(gpu, form));
    // their kernels are for units of 16
    let by_16 = units == Some(MatrixUnits::By16) && resident.cooperative.is_some();
    resident.cooperative_delta_net = by_16 && recording.steps.iter().any(is_delta_net) && delta_net::works(gpu);
    resident.cooperative_attention = by_16 && attention::works(gpu, recording);
    let by_units = (resident.cooperative_attention && context >= Attention::DEEP).then_some(Attention::DEEP);
    resident.deep_attention = options.deep_attention.or(by_units);
}

/// Whether the device's matrix units, which take activations in this form, are right. Says so if they are not.
fn works(gpu: &Gpu, form: Form) -> bool {
    let shape = ProductShape::new("matmul_cooperative", form, FORMAT, ROWS, COLS);
    let works = CooperativeTile::matrix(form).iter().all(|&tile| {
        let constants = shape.cooperative_constants(tile);
        is_right(gpu, shape, constants, tile.grid(ROWS, TOKENS))
    });
    if !works {
        tracing::warn!("{}: matrix units give wrong numbers and are not used", gpu.info.name);
    }
    works
}

fn weight_code(row: usize, col: usize) -> u32 {
    ((row * 7 + col * 5 + row * col) % 16) as u32
}

fn activation_code(token: usize, col: usize) -> i8 {
    ((token * 37 + col * 11 + token * col) % 255) as i8
}

/// Scale and bias of a block of weights.
fn weight_scale(row: usize, block: usize) -> (f32, f32) {
    (0.01 + ((row + block) % 7) as f32 * 0.003, -0.1 + ((row * 3 + block) % 5) as f32 * 0.01)
}

fn activation_scale(token: usize, block: usize) -> f32 {
    0.004 + ((token + 2 * block) % 9) as f32 * 0.001
}

fn weights() -> Vec<u32> {
    let mut words = vec![0; CODES + 2 * SCALES];
    for row in 0..ROWS {
        for col in 0..COLS {
            words[(row * COLS + col) / 8] |= weight_code(row, col) << (4 * (col % 8));
        }
        for block in 0..BLOCKS {
            let (scale, bias) = weight_scale(row, block);
            words[CODES + row * BLOCKS + block] = scale.to_bits();
            words[CODES + SCALES + row * BLOCKS + block] = bias.to_bits();
        }
    }
    words
}

fn activation(token: usize, col: usize) -> f32 {
    activation_scale(token, col / 32) * f32::from(activation_code(token, col))
}

/// As they are, or as `quantise` packs them for codes of 4 bits: byte b of word j has column 8 (j % 4) + 2 b + j / 4 of a
/// block.
fn activations(form: Form) -> Vec<u32> {
    if form == Form::F32 {
        return (0..TOKENS * COLS).map(|i| activation(i / COLS, i % COLS).to_bits()).collect();
    }
    let mut words = vec![0; TOKENS * x_words(form)];
    for (token, row) in words.chunks_exact_mut(x_words(form)).enumerate() {
        for block in 0..BLOCKS {
            let code = |col: usize| activation_code(token, 32 * block + col);
            for j in 0..8 {
                let bytes = [0, 1, 2, 3].map(|b| code(8 * (j % 4) + 2 * b + j / 4) as u8);
                row[8 * block + j] = u32::from_le_bytes(bytes);
            }
            let (scale, sum) = (activation_scale(token, block), (0..32).map(|c| i32::from(code(c))).sum::<i32>());
            row[COLS / 4 + 2 * block] = scale.to_bits();
            row[COLS / 4 + 2 * block + 1] = (scale * sum as f32).to_bits();
        }
    }
    words
}

/// An output, and the sum of the sizes of what is added up: the scale of its errors.
fn expected(row: usize, token: usize) -> (f32, f32) {
    let products = (0..COLS).map(|col| {
        let (scale, bias) = weight_scale(row, col / 32);
        (scale * weight_code(row, col) as f32 + bias) * activation(token, col)
    });
    products.fold((0.0, 0.0), |(sum, size), v| (sum + v, size + v.abs()))
}

/// The whole product at once, in one part.
fn parameters(form: Form, grid: [u32; 3]) -> Immediates {
    params! {
        rows: ROWS as u32,
        blocks: BLOCKS as u32,
        grid_x: grid[0],
        x_offset: 0,
        x_stride: x_words(form) as u32 / 4,
        out_offset: 0,
        out_stride: STRIDE as u32,
        accumulate: 0,
        first_token: 0,
        tokens: TOKENS as u32,
        stream_0: 0,
        stream_1: CODES as u32,
        stream_2: (CODES + SCALES) as u32,
    }
}

/// Whether the shader of a product multiplies the known numbers as it should: to 1 in 500, f16 has 1 in 2,048.
fn is_right(gpu: &Gpu, shape: ProductShape, constants: Vec<(&'static str, f64)>, grid: [u32; 3]) -> bool {
    let (x, matrix, out) = (activations(shape.form), weights(), vec![0; TOKENS * STRIDE]);
    let written = [false, false, true];
    let dispatch = Dispatch::new(0, 0, parameters(shape.form, grid), grid);
    let found = run(gpu, shape.shader(), constants, &[&x, &matrix, &out], written, &dispatch);
    found.is_some_and(|[.., found]| {
        (0..TOKENS).all(|token| {
            (0..ROWS).all(|row| {
                let (sum, size) = expected(row, token);
                (found[token * STRIDE + row] - sum).abs() <= size / 500.0
            })
        })
    })
}

/// From -1 to 1, in no order.
fn number(i: usize, seed: u32) -> f32 {
    let mixed = (i as u32 ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
    ((mixed ^ (mixed >> 15)).wrapping_mul(0xc2b2_ae35) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// Runs a dispatch of a shader on buffers with these words; what they hold then. `None` where the device cannot.
fn run<const N: usize>(
    gpu: &Gpu,
    shader: &'static str,
    constants: Vec<(&'static str, f64)>,
    words: &[&[u32]; N],
    written: [bool; N],
    dispatch: &Dispatch,
) -> Option<[Vec<f32>; N]> {
    let buffers = words.map(|words| {
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("matrix units"),
            size: words.len() as u64 * 4,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
        buffer
    });
    let binding = |i: usize| {
        let tensor = Resource::Tensor(TensorId(i));
        if written[i] { Binding::write(tensor) } else { Binding::read(tensor) }
    };
    let stage = Stage { shader, constants, groups: vec![(0..N).map(binding).collect()] };
    let bound = |binding: Binding| match binding.1 {
        Resource::Tensor(TensorId(i)) => Some(buffers[i].as_entire_buffer_binding()),
        _ => None,
    };
    let ready = unless_refused(&gpu.device, || Pipelines::new(&gpu.device, false).ready(&stage, bound))?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    ready.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), dispatch);
    let readbacks = buffers.each_ref().map(|buffer| Readback::new(&gpu.device, buffer.size()));
    for (buffer, readback) in buffers.iter().zip(&readbacks) {
        readback.copy(&mut encoder, buffer, 0, 0, buffer.size());
    }
    let submission = unless_refused(&gpu.device, || gpu.queue.submit([encoder.finish()]))?;
    let mut found = [const { Vec::new() }; N];
    for ((found, buffer), readback) in found.iter_mut().zip(&buffers).zip(&readbacks) {
        *found = readback.read(&submission, buffer.size(), bytemuck::pod_collect_to_vec::<u8, f32>).ok()?;
    }
    Some(found)
}

/// What `work` makes, unless the device refuses some of it. Code that a driver's compiler does not take is an internal
/// error: a device whose compiler takes none for its matrix units goes on without them.
fn unless_refused<T>(device: &wgpu::Device, work: impl FnOnce() -> T) -> Option<T> {
    let filters = [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal];
    let scopes = filters.map(|filter| device.push_error_scope(filter));
    let made = work();
    // the last one first
    let refused = scopes.into_iter().rev().filter_map(|scope| pollster::block_on(scope.pop())).count();
    (refused == 0).then_some(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::gpu::{Adapters, open};
    use crate::compute::ops::Tile;
    use crate::compute::shaders::taken::Taken;

    #[test]
    fn parameters_are_those_of_the_kernels() {
        for shader in ["matmul_int8_q4", "matmul_cooperative_int8_q4", "matmul_cooperative_q4"] {
            assert_eq!(parameters(Form::Int8, [1; 3]).names(), Taken::by(shader).params, "{shader}");
        }
    }

    /// A kernel that cannot be one of the device's is no error of the device, and nobody else hears of it.
    #[test]
    fn what_is_refused_is_done_without() {
        let gpu = pollster::block_on(open(Adapters::Any)).expect("tests need a device, be it a software driver");
        let stage = |threads: f64| Stage {
            shader: "matmul_q4",
            constants: vec![("row_threads", threads), ("token_threads", 4.0), ("row_sums", 1.0)],
            groups: vec![
                [Binding::read, Binding::read, Binding::write].map(|of| of(Resource::Tensor(TensorId(0)))).into(),
            ],
        };
        let make = |threads| {
            unless_refused(&gpu.device, || Pipelines::new(&gpu.device, false).ready(&stage(threads), |_| None))
                .is_some()
        };
        assert!(make(16.0));
        assert!(!make(1e6), "no workgroup has so many threads");
    }

    /// The product that every device has passes; with fewer tokens than it should make, it does not. Where there are
    /// matrix units, they pass.
    #[test]
    fn right_is_told_from_wrong() {
        let gpu = pollster::block_on(open(Adapters::Any)).expect("tests need a device, be it a software driver");
        for form in [Form::F32, Form::Int8] {
            let shape = ProductShape::new("matmul", form, FORMAT, ROWS, COLS);
            let tile = Tile::MATRIX[1];
            let [x, y, layers] = tile.grid(ROWS, TOKENS.div_ceil(tile.tokens()));
            assert!(is_right(&gpu, shape, shape.tile_constants(tile), [x, y, layers]));
            assert!(!is_right(&gpu, shape, shape.tile_constants(tile), [x, y, layers - 1]));
        }
        assert!(gpu.matrix_units.is_none_or(|units| works(&gpu, Form::of_units(units))));
    }
}
