//! Pipelines and bind groups: all made before tokens flow.
//!
//! A stage is made in one of two ways: for wgpu's own passes, or for a [`Chain`], which records below wgpu's validation.

use std::collections::HashMap;
use std::sync::Arc;

use flashflood_backends::gpu::chain::{Chain, ChainBinding, ChainGroup, ChainPipeline, ChainShader, Link, NoChain};
use flashflood_backends::gpu::shader_module;

use crate::compute::kernel::{Access, Binding, Dispatch, Stage};
use crate::compute::shaders;

/// A stage for a chain.
pub(super) struct ChainStage {
    pipeline: ChainPipeline,
    /// `None` for what is not there, such as a slab of another layer.
    groups: Vec<Option<ChainGroup>>,
}

impl ChainStage {
    pub(super) fn new<'a>(
        chain: &mut Chain,
        stage: &Stage,
        resource: impl Fn(Binding) -> Option<wgpu::BufferBinding<'a>>,
    ) -> Result<Self, NoChain> {
        let bindings: Vec<_> = access_of(stage).into_iter().map(|(n, access)| (n, access == Access::Write)).collect();
        let pipeline = chain.pipeline(&ChainShader {
            name: stage.shader,
            source: &|| shaders::source(stage.shader).expect("ops name shaders that exist"),
            constants: &stage.constants,
            bindings: &bindings,
        })?;
        let mut made = ChainStage { pipeline, groups: Vec::new() };
        for group in &stage.groups {
            let group = made.group(chain, group, &resource)?;
            made.groups.push(group);
        }
        Ok(made)
    }

    fn group<'a>(
        &self,
        chain: &mut Chain,
        bindings: &[Binding],
        resource: impl Fn(Binding) -> Option<wgpu::BufferBinding<'a>>,
    ) -> Result<Option<ChainGroup>, NoChain> {
        let part = |(place, b): (usize, &Binding)| {
            Some(ChainBinding { number: b.number(place), part: resource(*b)?, columns: b.columns() })
        };
        let parts: Option<Vec<_>> = bindings.iter().enumerate().map(part).collect();
        parts.map(|parts| chain.group(self.pipeline, &parts)).transpose()
    }

    /// Makes one of the bind groups anew, or drops it when a binding is not there. The one before goes after `submission`,
    /// the one that is being encoded.
    pub(super) fn regroup<'a>(
        &mut self,
        chain: &mut Chain,
        group: usize,
        bindings: &[Binding],
        resource: impl Fn(Binding) -> Option<wgpu::BufferBinding<'a>>,
        submission: u64,
    ) -> Result<(), NoChain> {
        let made = self.group(chain, bindings, resource)?;
        if let Some(before) = std::mem::replace(&mut self.groups[group], made) {
            chain.retire(before, submission);
        }
        Ok(())
    }

    /// A dispatch for the chain.
    pub(super) fn link<'a>(&self, dispatch: &'a Dispatch) -> Link<'a> {
        Link {
            pipeline: self.pipeline,
            group: self.groups[dispatch.group].expect("what a dispatch reads is there"),
            immediates: dispatch.immediates.words(),
            grid: dispatch.grid,
            beside: dispatch.beside,
        }
    }
}

/// A stage for wgpu's passes.
pub(super) struct PassStage {
    shader: &'static str,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    /// `None` for what is not there, such as a slab of another layer.
    groups: Vec<Option<wgpu::BindGroup>>,
}

impl PassStage {
    /// Makes one of the bind groups anew, or drops it when a binding is not there: a bind group keeps the memory of
    /// what it binds.
    pub(super) fn regroup<'a>(
        &mut self,
        device: &wgpu::Device,
        group: usize,
        bindings: &[Binding],
        resource: impl Fn(Binding) -> Option<wgpu::BufferBinding<'a>>,
    ) {
        self.groups[group] = bind_group(device, self.shader, &self.layout, bindings, resource);
    }

    /// Appends a dispatch to a pass.
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, dispatch: &Dispatch) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, self.groups[dispatch.group].as_ref(), &[]);
        pass.set_immediates(0, dispatch.immediates.bytes());
        let [x, y, z] = dispatch.grid;
        pass.dispatch_workgroups(x, y, z);
    }
}

/// The number and the access of each binding of a stage.
fn access_of(stage: &Stage) -> Vec<(u32, Access)> {
    stage.groups[0].iter().enumerate().map(|(i, b)| (b.number(i), b.0)).collect()
}

type Key = (&'static str, Vec<(&'static str, u64)>);

/// Makes each pipeline of wgpu once.
pub(super) struct Pipelines {
    device: wgpu::Device,
    checks: bool,
    layouts: HashMap<Vec<(u32, Access)>, wgpu::BindGroupLayout>,
    modules: HashMap<&'static str, Arc<wgpu::ShaderModule>>,
    pipelines: HashMap<Key, wgpu::ComputePipeline>,
}

impl Pipelines {
    pub(super) fn new(device: &wgpu::Device, checks: bool) -> Self {
        Pipelines {
            device: device.clone(),
            checks,
            layouts: HashMap::new(),
            modules: HashMap::new(),
            pipelines: HashMap::new(),
        }
    }

    fn layout(&mut self, access: &[(u32, Access)]) -> wgpu::BindGroupLayout {
        let device = &self.device;
        let make = || {
            let entries: Vec<_> = access
                .iter()
                .map(|(binding, access)| wgpu::BindGroupLayoutEntry {
                    binding: *binding,
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty: wgpu::BindingType::Buffer {
                        ty: wgpu::BufferBindingType::Storage { read_only: *access == Access::Read },
                        has_dynamic_offset: false,
                        min_binding_size: None,
                    },
                    count: None,
                })
                .collect();
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        };
        self.layouts.entry(access.to_vec()).or_insert_with(make).clone()
    }

    fn pipeline(&mut self, stage: &Stage, layout: &wgpu::BindGroupLayout, immediates: u32) -> wgpu::ComputePipeline {
        let key = (stage.shader, stage.constants.iter().map(|(name, v)| (*name, v.to_bits())).collect());
        if let Some(pipeline) = self.pipelines.get(&key) {
            return pipeline.clone();
        }
        let (source, entry) = shaders::source(stage.shader).expect("ops name shaders that exist");
        let module = self
            .modules
            .entry(stage.shader)
            .or_insert_with(|| Arc::new(shader_module(&self.device, stage.shader, &source, self.checks)))
            .clone();
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(stage.shader),
            bind_group_layouts: &[Some(layout)],
            immediate_size: immediates,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(stage.shader),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &stage.constants,
                // kernels write workgroup memory before they read it; zeroing it is a serial loop on Metal
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        self.pipelines.insert(key, pipeline.clone());
        pipeline
    }

    /// Makes the pipeline and the bind groups of a stage, but those with a binding that is not there.
    pub(super) fn ready<'a>(
        &mut self,
        stage: &Stage,
        resource: impl Fn(Binding) -> Option<wgpu::BufferBinding<'a>>,
    ) -> PassStage {
        let layout = self.layout(&access_of(stage));
        let pipeline = self.pipeline(stage, &layout, IMMEDIATES);
        let groups = stage.groups.iter();
        let groups = groups.map(|group| bind_group(&self.device, stage.shader, &layout, group, &resource)).collect();
        PassStage { shader: stage.shader, pipeline, layout, groups }
    }
}

fn bind_group<'a>(
    device: &wgpu::Device,
    label: &str,
    layout: &wgpu::BindGroupLayout,
    bindings: &[Binding],
    resource: impl Fn(Binding) -> Option<wgpu::BufferBinding<'a>>,
) -> Option<wgpu::BindGroup> {
    let entry = |(place, b): (usize, &Binding)| {
        Some(wgpu::BindGroupEntry { binding: b.number(place), resource: wgpu::BindingResource::Buffer(resource(*b)?) })
    };
    let entries: Option<Vec<_>> = bindings.iter().enumerate().map(entry).collect();
    let entries = entries?;
    Some(device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(label), layout, entries: &entries }))
}

/// Bytes of immediates of every pipeline: 16 words.
const IMMEDIATES: u32 = 64;
