//! Memory that host and GPU share, on whichever device the machine has.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use flashflood_backends::gpu::{Adapters, Gpu, open};
use flashflood_backends::{HostBuffer, PAGE};

const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC);

fn gpu() -> Gpu {
    pollster::block_on(open(Adapters::Any)).unwrap()
}

/// What the GPU sees of `bytes` bytes from `offset` on.
fn seen(gpu: &Gpu, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Vec<u8> {
    let copy = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, offset, &copy, 0, bytes);
    gpu.queue.submit([encoder.finish()]);
    copy.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    copy.get_mapped_range(..).unwrap().to_vec()
}

#[test]
fn the_gpu_sees_what_the_host_writes() {
    let gpu = gpu();
    let HostBuffer { buffer, mut regions } = HostBuffer::new(&gpu, "test", 2 * PAGE, 3, USAGE).unwrap();
    assert_eq!((regions.len(), buffer.size()), (3, 6 * PAGE as u64));
    assert!(seen(&gpu, &buffer, 0, buffer.size()).iter().all(|&byte| byte == 0));
    for round in 0..3 {
        for (index, region) in regions.iter_mut().enumerate() {
            assert_eq!(region.len(), 2 * PAGE);
            assert!(region.as_ptr().addr().is_multiple_of(PAGE));
            region.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 + index * 31 + round * 3) as u8);
        }
        let all: Vec<u8> = regions.iter().flat_map(|region| region.to_vec()).collect();
        assert!(seen(&gpu, &buffer, 0, buffer.size()) == all);
        assert!(seen(&gpu, &buffer, 2 * PAGE as u64, 8) == all[2 * PAGE..2 * PAGE + 8]);
    }
}

#[test]
fn a_file_is_read_straight_into_it() {
    let gpu = gpu();
    let HostBuffer { buffer, mut regions } = HostBuffer::new(&gpu, "test", 1 << 20, 2, USAGE).unwrap();
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, &bytes).unwrap();
    let file = flashflood_backends::io::ReadFile::open_direct(&path).unwrap();
    file.read_exact_at(&mut regions[1], 0).unwrap();
    assert!(seen(&gpu, &buffer, 1 << 20, 1 << 20) == bytes);
}

#[test]
fn memory_outlives_the_buffer() {
    let gpu = gpu();
    let HostBuffer { buffer, mut regions } = HostBuffer::new(&gpu, "test", PAGE, 2, USAGE).unwrap();
    regions.remove(0);
    drop(buffer);
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    drop(gpu);
    regions[0].fill(9);
    assert_eq!(regions[0][PAGE - 1], 9);
}

#[test]
fn only_whole_pages() {
    let gpu = gpu();
    for (bytes, count) in [(0, 1), (PAGE, 0), (PAGE + 1, 1), (usize::MAX / PAGE * PAGE, 2)] {
        assert!(HostBuffer::new(&gpu, "test", bytes, count, USAGE).is_err());
    }
}
