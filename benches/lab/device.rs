//! What measurements need of a device: buffers, pipelines, and the time that calls take by its own clock.

use flashflood::compute::gpu::Gpu;
use flashflood::compute::shaders;
use flashflood_backends::gpu::shader_module;

/// The binding of codebooks, whatever the kernel.
pub(crate) const CODEBOOK: u32 = 7;

/// A dispatch of a pipeline.
pub(crate) struct Call<'a> {
    pub(crate) group: &'a wgpu::BindGroup,
    pub(crate) immediates: [u32; 16],
    pub(crate) grid: [u32; 3],
}

pub(crate) fn buffer(gpu: &Gpu, bytes: usize) -> wgpu::Buffer {
    gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes as u64,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// Of so many bindings, as all products have them: number 2 is the output.
pub(crate) fn layout(gpu: &Gpu, bindings: u32) -> wgpu::BindGroupLayout {
    // and a codebook
    let entry = |binding| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: binding != 2 },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = (0..bindings).chain([CODEBOOK]).map(entry).collect();
    gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
}

/// A pipeline without runtime checks.
pub(crate) fn pipeline(
    gpu: &Gpu,
    layout: &wgpu::BindGroupLayout,
    source: &str,
    entry: &str,
    constants: &[(&str, f64)],
) -> wgpu::ComputePipeline {
    let module = shader_module(&gpu.device, entry, source, false);
    let layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(layout)],
        immediate_size: 64,
    });
    gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(entry),
        layout: Some(&layout),
        module: &module,
        entry_point: Some(entry),
        compilation_options: wgpu::PipelineCompilationOptions { constants, zero_initialize_workgroup_memory: false },
        cache: None,
    })
}

/// How long each measurement goes on at least.
const WARM_UP: std::time::Duration = std::time::Duration::from_millis(50);

/// Packs `rows` rows of `cols` activations with the program's own kernel.
pub(crate) fn quantise(
    gpu: &Gpu,
    interleave: usize,
    cols: usize,
    rows: usize,
    x: &wgpu::Buffer,
    packed: &wgpu::Buffer,
) {
    let device = &gpu.device;
    let (source, entry) = shaders::source("quantise").unwrap();
    let module = shader_module(device, "quantise", &source, false);
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some(entry),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[("interleave", interleave as f64)],
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    });
    let entries = [x, packed].map(wgpu::Buffer::as_entire_binding);
    let entries: Vec<_> =
        (0..).zip(entries).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
    let layout = pipeline.get_bind_group_layout(0);
    let group =
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
    let mut encoder = device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        let words = cols as u32 / 4;
        pass.set_immediates(0, bytemuck::cast_slice(&[words, 0, cols as u32, words + words / 4]));
        pass.dispatch_workgroups(words.div_ceil(64), rows as u32, 1);
    }
    gpu.queue.submit([encoder.finish()]);
}

/// Seconds that `calls` take one after the other, the best of four times by the device's own clock.
pub(crate) fn seconds(gpu: &Gpu, pipeline: &wgpu::ComputePipeline, calls: &[Call<'_>]) -> f64 {
    let device = &gpu.device;
    let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 };
    let queries = device.create_query_set(&descriptor);
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 16,
        usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let mut best = f64::MAX;
    // a device that was idle while pipelines were made has to come back to its clock: an H200 reads with 1.9 TB/s before
    let start = std::time::Instant::now();
    for run in 0.. {
        if run >= 4 && start.elapsed() >= WARM_UP {
            break;
        }
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }),
            });
            pass.set_pipeline(pipeline);
            for call in calls {
                pass.set_bind_group(0, call.group, &[]);
                pass.set_immediates(0, bytemuck::cast_slice(&call.immediates));
                let [x, y, z] = call.grid;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        encoder.resolve_query_set(&queries, 0..2, &buffer, 0);
        gpu.queue.submit([encoder.finish()]);
        let ticks: Vec<u64> = read(gpu, &buffer, 16);
        let seconds = (ticks[1] - ticks[0]) as f64 * f64::from(gpu.queue.get_timestamp_period()) / 1e9;
        best = best.min(seconds);
    }
    best
}

/// The first `bytes` of a buffer.
pub(crate) fn read<T: bytemuck::Pod>(gpu: &Gpu, buffer: &wgpu::Buffer, bytes: u64) -> Vec<T> {
    let device = &gpu.device;
    let landing = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &landing, 0, bytes);
    gpu.queue.submit([encoder.finish()]);
    landing.slice(..).map_async(wgpu::MapMode::Read, |_| {});
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let view = landing.slice(..).get_mapped_range().unwrap();
    bytemuck::pod_collect_to_vec(&view)
}
