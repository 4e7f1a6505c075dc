use super::*;
use crate::gpu::{Adapters, open};

/// Adds a number and another buffer's values.
const ADD: &str = "
struct Params { number: u32 }
var<immediate> params: Params;
override SCALE: u32 = 1u;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(64)
fn add(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&out) {
        out[id.x] = x[id.x] * SCALE + params.number;
    }
}
";

const WORDS: u64 = 1000;

/// A binding of which all columns are touched.
fn bound(number: u32, part: wgpu::BufferBinding<'_>) -> ChainBinding<'_> {
    ChainBinding { number, part, columns: 0..u32::MAX }
}

/// Three buffers and a chain that takes numbers from one to another.
struct Bench {
    gpu: Gpu,
    buffers: [wgpu::Buffer; 3],
    readback: wgpu::Buffer,
    chain: Chain,
    pipeline: ChainPipeline,
}

impl Bench {
    fn new() -> Bench {
        let gpu = pollster::block_on(open(Adapters::Any)).expect("tests need a device, be it a software driver");
        let buffer = |usage| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: WORDS * 4,
                usage: usage | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let used = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let buffers = [(); 3].map(|()| buffer(used));
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        buffers.iter().for_each(|buffer| encoder.clear_buffer(buffer, 0, None));
        gpu.queue.submit([encoder.finish()]);
        let mut chain = Chain::new(&gpu).expect("Vulkan and Metal have one");
        let pipeline = chain.pipeline(&shader(&[])).expect("the shader is right");
        Bench { readback: buffer(wgpu::BufferUsages::MAP_READ), gpu, buffers, chain, pipeline }
    }

    fn group(&mut self, from: usize, to: usize) -> ChainGroup {
        let part = |index: usize| self.buffers[index].as_entire_buffer_binding();
        self.chain.group(self.pipeline, &[bound(1, part(to)), bound(0, part(from))]).expect("as the pipeline has them")
    }

    /// Records dispatches of some groups, each of which adds a number.
    fn record(&mut self, groups: &[(ChainGroup, u32)]) -> (wgpu::CommandBuffer, Recorded) {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.chain.begin(&mut encoder);
        let mut links = groups.iter().map(|(group, number)| Link {
            pipeline: self.pipeline,
            group: *group,
            immediates: std::slice::from_ref(number),
            grid: [WORDS.div_ceil(64) as u32, 1, 1],
            beside: false,
        });
        let recorded = self.chain.record(&mut encoder, &mut links);
        self.chain.end(&mut encoder);
        (encoder.finish(), recorded)
    }

    /// The first and last word of a buffer, after `commands`.
    fn read(&self, commands: Vec<wgpu::CommandBuffer>, index: usize) -> [u32; 2] {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.buffers[index], 0, &self.readback, 0, WORDS * 4);
        self.gpu.queue.submit(commands.into_iter().chain([encoder.finish()]));
        let slice = self.readback.slice(..);
        slice.map_async(wgpu::MapMode::Read, |outcome| outcome.expect("it can be mapped"));
        self.gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device works");
        let view = slice.get_mapped_range().expect("it is mapped");
        let word = |at: usize| u32::from_le_bytes([view[at], view[at + 1], view[at + 2], view[at + 3]]);
        let words = [word(0), word(WORDS as usize * 4 - 4)];
        drop(view);
        self.readback.unmap();
        words
    }
}

fn shader<'a>(constants: &'a [(&'a str, f64)]) -> ChainShader<'a> {
    ChainShader { name: "add", source: &|| (ADD.to_owned(), "add"), constants, bindings: &[(0, false), (1, true)] }
}

#[test]
fn dispatches_run_in_order_with_copies_between_them() {
    let mut bench = Bench::new();
    let [there, back, aside] = [bench.group(0, 1), bench.group(1, 0), bench.group(0, 2)];
    // waits for the dispatch before it, but for the first, and that which reads what the one before reads
    let groups = [(there, 1), (back, 2), (there, 3), (aside, 100), (back, 4)];
    let (commands, recorded) = bench.record(&groups);
    assert_eq!(recorded, Recorded { dispatches: 5, barriers: 3 });
    assert_eq!(bench.read(vec![commands], 0), [10, 10]);
    // a write of the queue comes before what is submitted after it, and after what was submitted before it
    bench.gpu.queue.write_buffer(&bench.buffers[0], 0, &7u32.to_le_bytes());
    let (first, _) = bench.record(&[(there, 1)]);
    let mut copy = bench.gpu.device.create_command_encoder(&Default::default());
    copy.copy_buffer_to_buffer(&bench.buffers[1], 0, &bench.buffers[0], 0, WORDS * 4);
    let (last, _) = bench.record(&[(aside, 1000)]);
    assert_eq!(bench.read(vec![first, copy.finish(), last], 2), [1008, 1011]);
    assert_eq!(bench.read(Vec::new(), 0), [8, 11]);
}

#[test]
fn pipelines_are_made_once_for_the_same_constants() {
    let mut bench = Bench::new();
    assert_eq!(bench.chain.pipeline(&shader(&[])).expect("it is known"), bench.pipeline);
    bench.chain.forget_modules();
    let scaled = bench.chain.pipeline(&shader(&[("SCALE", 3.0)])).expect("its module is made again");
    assert_ne!(scaled, bench.pipeline);
    let there = bench.group(0, 1);
    bench.gpu.queue.write_buffer(&bench.buffers[0], 0, &[5u32.to_le_bytes(); WORDS as usize].concat());
    bench.pipeline = scaled;
    let (commands, _) = bench.record(&[(there, 1)]);
    assert_eq!(bench.read(vec![commands], 1), [16, 16]);
}

#[test]
fn groups_go_when_their_last_submission_is_done() {
    let mut bench = Bench::new();
    let there = bench.group(0, 1);
    let (commands, _) = bench.record(&[(there, 9)]);
    bench.chain.retire(there, 1);
    bench.chain.done(0);
    let other = bench.group(1, 2);
    assert_eq!(other, there, "its number is free");
    let (more, _) = bench.record(&[(other, 1)]);
    assert_eq!(bench.read(vec![commands, more], 2), [10, 10]);
    bench.chain.done(1);
    let (again, _) = bench.record(&[(other, 2)]);
    assert_eq!(bench.read(vec![again], 2), [11, 11]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut bench = Bench::new();
    let part = |index: usize| bench.buffers[index].as_entire_buffer_binding();
    let mut refused = |bindings: &[ChainBinding<'_>]| {
        bench.chain.group(bench.pipeline, bindings).expect_err("it does not fit").to_string()
    };
    assert!(refused(&[bound(0, part(0))]).contains("other bindings"));
    let beyond = wgpu::BufferBinding { offset: WORDS * 4, ..part(1) };
    assert!(
        refused(&[bound(0, part(0)), bound(1, beyond)]).contains("expected a part of 4000 bytes, found 0 from 4000")
    );
    let wrong = ChainShader { name: "wrong", source: &|| ("fn f() -> u32 {}".to_owned(), "f"), ..shader(&[]) };
    assert!(bench.chain.pipeline(&wrong).expect_err("it does not return").to_string().starts_with("wrong: "));
}
