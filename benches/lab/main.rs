//! Kernel versions side by side: `cargo bench --bench lab [-- NAME]`. Only the winner is in `wgsl/`.
//!
//! Each version is a product of a 4-bit matrix `[rows, cols]` with one vector at a shape of the 397B model. Weights are
//! 600 MB in parts, so that caches do not help; the figure is weights read per second of the best of several runs.
#![allow(clippy::unwrap_used, reason = "a bench")]

use flashflood::compute::gpu::{Adapters, open};
use flashflood_backends::gpu::shader_module;

/// (name, source, bindings twice as words and as vec4, int8 activations, rows per workgroup)
const VERSIONS: &[(&str, &str, usize)] = &[
    ("f32_words", include_str!("f32_words.wgsl"), 4),
    ("f32_vec4", include_str!("f32_vec4.wgsl"), 4),
    ("f32_vec4_factored", include_str!("f32_vec4_factored.wgsl"), 4),
    ("int8_4rows", include_str!("int8_4rows.wgsl"), 4),
    ("int8_4rows_32lanes", include_str!("int8_4rows_32lanes.wgsl"), 8),
    ("int8_8rows", include_str!("int8_8rows.wgsl"), 8),
    ("int8_2rows", include_str!("int8_2rows.wgsl"), 2),
];

const SHAPES: &[(usize, usize)] = &[(16384, 4096), (4096, 8192), (2048, 4096), (4096, 1024), (512, 4096)];
const TOTAL: usize = 600 << 20;

fn main() {
    let gpu = pollster::block_on(open(Adapters::Any)).unwrap();
    let software = gpu.info.device_type == wgpu::DeviceType::Cpu;
    println!("{} ({:?})", gpu.info.name, gpu.info.backend);
    println!("| version | rows | cols | us/call | GB/s |\n| --- | ---: | ---: | ---: | ---: |");
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    for &(rows, cols) in SHAPES {
        let codes = rows * cols / 2;
        let scales = rows * cols / 64 * 2;
        let part = (codes + 2 * scales).next_multiple_of(256);
        let parts = if software { 1 } else { (TOTAL / part).clamp(1, 200) };
        let device = &gpu.device;
        let buffer = |size: usize, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: size as u64,
                usage: wgpu::BufferUsages::STORAGE | usage,
                mapped_at_creation: false,
            })
        };
        let weights: Vec<_> = (0..parts).map(|_| buffer(part, wgpu::BufferUsages::COPY_DST)).collect();
        let x = buffer(cols * 4, wgpu::BufferUsages::COPY_DST);
        let sums = buffer(cols / 32 * 8, wgpu::BufferUsages::COPY_DST);
        let out = buffer(rows * 4, wgpu::BufferUsages::COPY_SRC);
        let entry = |binding, read_only| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &[entry(0, true), entry(1, true), entry(2, true), entry(3, true), entry(4, false)],
        });
        let groups: Vec<_> = weights
            .iter()
            .map(|w| {
                let bindings = [&x, &sums, w, w, &out];
                let entries: Vec<_> = bindings
                    .iter()
                    .enumerate()
                    .map(|(i, b)| wgpu::BindGroupEntry { binding: i as u32, resource: b.as_entire_binding() })
                    .collect();
                device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
            })
            .collect();
        for &(name, source, rows_per_group) in VERSIONS {
            if wanted.as_ref().is_some_and(|w| !name.contains(w.as_str())) {
                continue;
            }
            let module = shader_module(device, name, source, false);
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 64,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            });
            let values: [u32; 4] = [rows as u32, (cols / 32) as u32, (codes / 4) as u32, ((codes + scales) / 4) as u32];
            let mut immediates = [0u32; 16];
            immediates[..4].copy_from_slice(&values);
            let mut best = f64::MAX;
            for _ in 0..6 {
                let mut encoder = device.create_command_encoder(&Default::default());
                {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    pass.set_pipeline(&pipeline);
                    for group in &groups {
                        pass.set_bind_group(0, group, &[]);
                        pass.set_immediates(0, bytemuck::cast_slice(&immediates));
                        pass.dispatch_workgroups(rows.div_ceil(rows_per_group) as u32, 1, 1);
                    }
                }
                let commands = encoder.finish();
                let start = std::time::Instant::now();
                gpu.queue.submit([commands]);
                device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
                best = best.min(start.elapsed().as_secs_f64());
            }
            println!(
                "| {name} | {rows} | {cols} | {:.1} | {:.0} |",
                best * 1e6 / parts as f64,
                (part * parts) as f64 / best / 1e9
            );
        }
    }
}
