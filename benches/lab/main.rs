//! Kernel versions side by side: `cargo bench --bench lab [-- NAME]`. Only winners are in `wgsl/`.
//!
//! A version is a shader (of the program, or one in this folder) with constants: threads that share rows, threads of a
//! workgroup, sums a thread. Weights are 600 MB and more, so that caches do not help. Two figures each: calls that write
//! one output, so that each waits for the one before as in a model, and calls with an output each, which overlap: what
//! the kernel itself can do. `read` is the ceiling.
//!
//! `cargo bench --bench lab -- blocks` measures the types of blocks that GGUF files have and small floats, at shapes of the
//! 397B; `blocks:q6_k,fp8` those alone.
//!
//! `cargo bench --bench lab -- matmul` measures products of many tokens instead: see [`tiles`].
#![allow(clippy::unwrap_used, reason = "a bench")]

mod device;
mod tiles;
mod versions;

use device::{CODEBOOK, Call, buffer, layout, pipeline, quantise, read, seconds};
use flashflood::compute::gpu::{Adapters, Gpu, open};
use versions::{Case, Version};

/// Bytes of weights.
const TOTAL: usize = 600 << 20;
/// Bytes read in one measurement, about: all calls of it are one pass.
const MEASURED: usize = 2 << 30;

fn main() {
    let gpu = pollster::block_on(open(Adapters::Any)).unwrap();
    println!("{} ({:?})", gpu.info.name, gpu.info.backend);
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    if let Some(wanted) = wanted.as_ref().filter(|w| w.contains("matmul")) {
        return tiles::run(&gpu, wanted);
    }
    println!("| version | rows | cols | pairs | dependent us | GB/s | independent us | GB/s |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let fits = |case: &Case| {
        case.format.matrix_bytes(case.rows, case.cols) as u64 * 2 <= gpu.limits.max_storage_buffer_binding_size
    };
    let (cases, wanted) = match wanted.as_deref() {
        Some(blocks) if blocks.starts_with("blocks") => {
            let only: Option<Vec<&str>> = blocks.strip_prefix("blocks:").map(|names| names.split(',').collect());
            let mut cases = versions::cases_of_blocks();
            cases.retain(|case| only.as_ref().is_none_or(|only| only.contains(&case.format.suffix())));
            (cases, None)
        }
        _ => (versions::cases(), wanted),
    };
    for case in cases.into_iter().filter(fits) {
        let bench = Bench::new(&gpu, case);
        let mut expected = None;
        for version in versions::of(&case) {
            let fits = version.constant("threads") <= gpu.limits.max_compute_invocations_per_workgroup
                && version.groups(&case) <= gpu.limits.max_compute_workgroups_per_dimension;
            if !fits || wanted.as_ref().is_some_and(|w| !version.name.contains(w.as_str())) {
                continue;
            }
            let pipeline = pipeline(&gpu, &bench.layout, &version.source, version.entry, &version.constants);
            let [dependent, independent] = [false, true].map(|own| bench.time(&version, &pipeline, own));
            let Case { rows, cols, pairs, .. } = case;
            let rate = |seconds: f64| bench.bytes_per_call as f64 / seconds / 1e9;
            println!(
                "| {} | {rows} | {cols} | {pairs} | {:.1} | {:.0} | {:.1} | {:.0} |",
                version.name,
                dependent * 1e6,
                rate(dependent),
                independent * 1e6,
                rate(independent)
            );
            if version.comparable {
                let found = bench.first_outputs();
                let expected = expected.get_or_insert_with(|| found.clone());
                let error = found.iter().zip(expected.iter()).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
                let size = expected.iter().fold(0.0f32, |most, e| most.max(e.abs()));
                if error.is_nan() || error > 0.03 * size || size == 0.0 {
                    println!("  wrong: differs by {error} of {size}");
                }
            }
        }
    }
}

/// Buffers of a case.
struct Bench<'a> {
    gpu: &'a Gpu,
    case: Case,
    /// With other weights each.
    calls: usize,
    /// In a measurement.
    runs: usize,
    bytes_per_call: usize,
    sections: [u32; 3],
    slot_words: u32,
    groups: [Vec<[wgpu::BindGroup; 2]>; 2],
    layout: wgpu::BindGroupLayout,
    out: wgpu::Buffer,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu, case: Case) -> Self {
        let device = &gpu.device;
        let all_rows = if case.kernel == "expert_gate_up" { 2 * case.rows } else { case.rows };
        let streams = case.format.stream_bytes(case.cols).map(|row| (all_rows * row).next_multiple_of(16));
        let slot = streams.iter().sum::<usize>().next_multiple_of(256);
        let is_software = gpu.info.device_type == wgpu::DeviceType::Cpu;
        // experts lie in one slab, parts of matrices in a buffer each
        let total =
            if case.is_expert() { TOTAL.min(gpu.limits.max_storage_buffer_binding_size as usize) } else { TOTAL };
        let most = if is_software { 1 } else { (total / slot / case.pairs).clamp(1, 200) };
        let (buffers, calls) = if case.is_expert() { (1, most) } else { (most, most) };
        let buffer = |size| buffer(gpu, size);
        let slots = if case.is_expert() { calls * case.pairs } else { 1 };
        let weights: Vec<_> = (0..buffers).map(|_| buffer(slots * slot)).collect();
        // the first slot has weights that a result can be told from
        let mut first = Vec::new();
        for (bytes, len) in case.format.random(all_rows, case.cols, 1.0, 1).iter().zip(streams) {
            let end = first.len() + len;
            first.extend_from_slice(bytes);
            first.resize(end, 0);
        }
        let book = case.format.codebook().map_or(&[0; 4][..], |book| book.words());
        let codebook = buffer(book.len() * 4);
        gpu.queue.write_buffer(&codebook, 0, bytemuck::cast_slice(book));
        gpu.queue.write_buffer(&weights[0], 0, &first);
        let tokens = case.pairs;
        let x = buffer(case.cols * 4 * tokens);
        let values: Vec<f32> = (0..case.cols * tokens).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect();
        gpu.queue.write_buffer(&x, 0, bytemuck::cast_slice(&values));
        let packed = buffer((case.cols / 4 + case.cols / 16) * 4 * tokens);
        let out = buffer(case.rows * 4 * case.pairs);
        let pairs: Vec<[u32; 4]> = (0..calls * case.pairs).map(|i| [0, (i % case.pairs) as u32, i as u32, 0]).collect();
        let pair_buffer = buffer(pairs.len() * 16);
        gpu.queue.write_buffer(&pair_buffer, 0, bytemuck::cast_slice(&pairs));
        let layout = layout(gpu, 5);
        let group = |x: &wgpu::Buffer, call: usize, out: &wgpu::Buffer| {
            // nothing is yet to be scaled: sums of squares are not touched
            let bindings = [x, &weights[call % buffers], out, &pair_buffer, &pair_buffer, &codebook];
            let entries: Vec<_> = [0, 1, 2, 3, 4, CODEBOOK]
                .into_iter()
                .zip(bindings)
                .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
                .collect();
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
        };
        let both = |call: usize, out: &wgpu::Buffer| [group(&x, call, out), group(&packed, call, out)];
        let shared = (0..calls).map(|call| both(call, &out)).collect();
        let bytes_per_call = streams.iter().sum::<usize>() * case.pairs;
        let runs = if is_software { calls } else { (MEASURED / bytes_per_call).clamp(calls, 1000) };
        // an output that is written again would be waited for
        let own = (0..runs).map(|call| both(call, &buffer(case.rows * 4 * case.pairs))).collect();
        let bench = Bench {
            gpu,
            case,
            calls,
            runs,
            bytes_per_call,
            sections: [0, streams[0] / 4, (streams[0] + streams[1]) / 4].map(|words| words as u32),
            slot_words: (slot / 4) as u32,
            groups: [shared, own],
            layout,
            out,
        };
        if let Some(interleave) = case.format.interleave() {
            quantise(gpu, interleave, case.cols, case.pairs, &x, &packed);
        }
        bench
    }

    fn immediates(&self, version: &Version, call: usize) -> [u32; 16] {
        let Case { rows, cols, pairs, .. } = self.case;
        let [codes, scales, biases] = self.sections;
        let row_words = if version.is_int8 { cols / 4 + cols / 16 } else { cols };
        let blocks = (cols / 32) as u32;
        let mut all = [0; 16];
        if self.case.is_expert() {
            let out_stride = if version.constant("packed") == 1 { rows / 4 + rows / 16 } else { rows };
            let values = [
                rows as u32,
                blocks,
                u32::MAX,
                (call % self.calls * pairs) as u32,
                0,
                (row_words / 4) as u32,
                out_stride as u32,
                self.slot_words,
                codes,
                scales,
                biases,
            ];
            all[..11].copy_from_slice(&values);
        } else {
            let values = [rows as u32, blocks, u32::MAX, 0, 0, 0, rows as u32, 0, 0, 1, codes, scales, biases];
            all[..13].copy_from_slice(&values);
        }
        all
    }

    /// Seconds a call.
    fn time(&self, version: &Version, pipeline: &wgpu::ComputePipeline, own: bool) -> f64 {
        let groups = &self.groups[usize::from(own)];
        let call = |call: usize| Call {
            group: &groups[call % groups.len()][usize::from(version.is_int8)],
            immediates: self.immediates(version, call),
            grid: [version.groups(&self.case), 1, self.case.pairs as u32],
        };
        let calls: Vec<Call<'_>> = (0..self.runs).rev().map(call).collect();
        seconds(self.gpu, pipeline, &calls) / self.runs as f64
    }

    /// What the last dependent call wrote for the first slot.
    fn first_outputs(&self) -> Vec<f32> {
        read(self.gpu, &self.out, self.case.rows as u64 * 4)
    }
}
