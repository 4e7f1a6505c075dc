//! Dispatches that are recorded below wgpu's validation: a token of a large model is 450 of them, the same ones every time,
//! and wgpu-core takes 1.7 to 2.3 ms to check and track them (beside an H200, 35B-A3B shape).
//!
//! A [`Chain`] owns pipelines and bind groups of wgpu-hal and records dispatches of them, with the barriers between them,
//! into command encoders of wgpu, which are finished and submitted as others are. wgpu-core allows an encoder to be used
//! either through itself or through wgpu-hal, so copies go into encoders of their own.
//!
//! wgpu knows nothing of what is recorded here. Therefore
//! - a recording begins and ends with a barrier between all dispatches and copies: whatever state wgpu believes a buffer to
//!   be in, what it records before and after is ordered. (Buffers of Vulkan have no other state, and Metal orders
//!   everything by itself.)
//! - buffers that dispatches write are to be written once through wgpu before, with `clear_buffer` for instance: wgpu zeroes
//!   memory when it first sees it used, which may be long after a dispatch wrote it.
//! - what recordings use is kept here until they are done: bind groups, and with them their buffers.
//!
//! Vulkan and Metal have it. DirectX 12 has not: there a buffer is in a state, which wgpu would have to be told of, and each
//! change between reading and writing is a transition of that buffer. It keeps to wgpu.

mod api;
mod hazards;
mod links;

use std::ops::Range;

use crate::gpu::Gpu;
use links::Links;

/// Bytes of immediates of every pipeline.
const IMMEDIATE_BYTES: u32 = super::IMMEDIATE_BYTES;

/// Why dispatches cannot be recorded below wgpu.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoChain(String);

/// A pipeline of a [`Chain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainPipeline(u32);

/// A bind group of a [`Chain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainGroup(u32);

/// A compute pipeline to be made, of the one bind group 0.
pub struct ChainShader<'a> {
    /// Of the module, the same for the same source.
    pub name: &'a str,
    /// WGSL and its entry point: asked for only when the pipeline is not made yet.
    pub source: &'a dyn Fn() -> (String, &'static str),
    /// Values of `override` constants.
    pub constants: &'a [(&'a str, f64)],
    /// Binding numbers of storage buffers, and whether they are written.
    pub bindings: &'a [(u32, bool)],
}

/// A binding of a [`ChainGroup`].
pub struct ChainBinding<'a> {
    /// Of the shader.
    pub number: u32,
    /// What is bound.
    pub part: wgpu::BufferBinding<'a>,
    /// What dispatches touch of the buffer, in any unit that all bindings of it share: those that touch other columns may
    /// run side by side.
    pub columns: Range<u32>,
}

/// One dispatch.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// Pipeline.
    pub pipeline: ChainPipeline,
    /// A group that was made for it.
    pub group: ChainGroup,
    /// Words, from the first on.
    pub immediates: &'a [u32],
    /// Workgroups.
    pub grid: [u32; 3],
    /// It runs side by side with the links before it, back to the last that is not beside others: of what all of them bind to
    /// be written, no two touch the same element.
    pub beside: bool,
}

/// What a recording has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Dispatches.
    pub dispatches: u64,
    /// Barriers that they wait at: a dispatch that touches nothing that is being written runs beside those before it.
    pub barriers: u64,
}

/// What a chain does, whichever the graphics API.
trait Recorder: Send {
    fn pipeline(&mut self, shader: &ChainShader<'_>) -> Result<ChainPipeline, NoChain>;
    fn forget_modules(&mut self);
    fn group(&mut self, pipeline: ChainPipeline, bindings: &[ChainBinding<'_>]) -> Result<ChainGroup, NoChain>;
    fn retire(&mut self, group: ChainGroup, submission: u64);
    fn done(&mut self, submission: u64);
    fn begin(&mut self, encoder: &mut wgpu::CommandEncoder);
    fn record(&mut self, encoder: &mut wgpu::CommandEncoder, links: &mut dyn Iterator<Item = Link<'_>>) -> Recorded;
    fn end(&mut self, encoder: &mut wgpu::CommandEncoder);
}

/// Pipelines and bind groups, and what records dispatches of them.
///
/// Shaders have none of wgpu's runtime checks. When it is dropped, it waits until the device has done everything.
pub struct Chain(Box<dyn Recorder>);

impl Chain {
    /// A chain without pipelines.
    ///
    /// # Errors
    /// Where the graphics API has none.
    pub fn new(gpu: &Gpu) -> Result<Chain, NoChain> {
        match gpu.info.backend {
            #[cfg(any(target_os = "linux", target_os = "android", windows))]
            wgpu::Backend::Vulkan => Ok(Chain(Box::new(Links::<wgpu::hal::api::Vulkan>::new(&gpu.device)?))),
            #[cfg(target_vendor = "apple")]
            wgpu::Backend::Metal => Ok(Chain(Box::new(Links::<wgpu::hal::api::Metal>::new(&gpu.device)?))),
            other => Err(NoChain(format!("dispatches of {other:?} are recorded by wgpu"))),
        }
    }

    /// Makes a pipeline, once for the same shader and constants.
    ///
    /// # Errors
    /// What the shader or the driver lacks.
    pub fn pipeline(&mut self, shader: &ChainShader<'_>) -> Result<ChainPipeline, NoChain> {
        self.0.pipeline(shader)
    }

    /// Gives back what only making pipelines needs. More can be made after it.
    pub fn forget_modules(&mut self) {
        self.0.forget_modules();
    }

    /// Makes a bind group of parts of buffers, by binding number, with the bindings of a pipeline. It keeps the buffers.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn group(&mut self, pipeline: ChainPipeline, bindings: &[ChainBinding<'_>]) -> Result<ChainGroup, NoChain> {
        self.0.group(pipeline, bindings)
    }

    /// A bind group is not used any more: it goes when submission number `submission`, the last that may use it, is
    /// [`done`](Chain::done).
    pub fn retire(&mut self, group: ChainGroup, submission: u64) {
        self.0.retire(group, submission);
    }

    /// Submissions up to this number are done.
    pub fn done(&mut self, submission: u64) {
        self.0.done(submission);
    }

    /// Begins to record into an encoder that nothing was recorded into. Until [`end`](Chain::end) it is used for
    /// [`record`](Chain::record) only, and after it it is finished.
    pub fn begin(&mut self, encoder: &mut wgpu::CommandEncoder) {
        self.0.begin(encoder);
    }

    /// Appends dispatches.
    pub fn record(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        links: &mut dyn Iterator<Item = Link<'_>>,
    ) -> Recorded {
        self.0.record(encoder, links)
    }

    /// Ends what [`begin`](Chain::begin) began.
    pub fn end(&mut self, encoder: &mut wgpu::CommandEncoder) {
        self.0.end(encoder);
    }
}

#[cfg(test)]
mod tests;
