//! Pipelines and bind groups of one graphics API, and recordings of them.

use std::collections::HashMap;

use wgpu::hal::{self, CommandEncoder as _, Device as _};
use wgpu::naga;

use super::api::{Between, ChainApi};
use super::hazards::{Hazards, Touch};
use super::{ChainBinding, ChainGroup, ChainPipeline, ChainShader, IMMEDIATE_BYTES, Link, NoChain, Recorded, Recorder};

/// The layouts of all pipelines with the same bindings.
struct Layout<A: hal::Api> {
    bindings: Vec<(u32, bool)>,
    group: A::BindGroupLayout,
    pipeline: A::PipelineLayout,
}

struct Pipeline<A: hal::Api> {
    raw: A::ComputePipeline,
    /// Of `Links::layouts`.
    layout: usize,
}

struct Group<A: hal::Api> {
    raw: A::BindGroup,
    /// Of `Links::layouts`.
    layout: usize,
    touches: Vec<Touch>,
    /// What it binds lives as long.
    _buffers: Vec<wgpu::Buffer>,
}

/// What dispatches since the beginning of a recording have set.
#[derive(Default)]
struct Current {
    pipeline: Option<u32>,
    group: Option<u32>,
}

type Key = (String, Vec<(String, u64)>);

pub(super) struct Links<A: ChainApi> {
    device: wgpu::Device,
    barriers: A::Barriers,
    layouts: Vec<Layout<A>>,
    modules: HashMap<String, A::ShaderModule>,
    known: HashMap<Key, ChainPipeline>,
    pipelines: Vec<Pipeline<A>>,
    groups: Vec<Option<Group<A>>>,
    /// Groups that are not there, to be made again.
    free: Vec<u32>,
    /// Groups that are not used any more, with the last submission that may use them.
    retired: Vec<(u64, Group<A>)>,
    /// Buffers by the address of their hal object, numbered. An address may come to stand for another buffer when the
    /// first one is gone: at worst a barrier too many.
    buffers: HashMap<usize, u32>,
    hazards: Hazards,
    current: Current,
}

impl<A: ChainApi> Links<A> {
    pub(super) fn new(device: &wgpu::Device) -> Result<Self, NoChain> {
        // SAFETY: the device is only asked.
        let hal = unsafe { device.as_hal::<A>() }.ok_or_else(|| NoChain(format!("no device of {:?}", A::VARIANT)))?;
        let barriers = A::barriers(&hal);
        drop(hal);
        Ok(Links {
            device: device.clone(),
            barriers,
            layouts: Vec::new(),
            modules: HashMap::new(),
            known: HashMap::new(),
            pipelines: Vec::new(),
            groups: Vec::new(),
            free: Vec::new(),
            retired: Vec::new(),
            buffers: HashMap::new(),
            hazards: Hazards::default(),
            current: Current::default(),
        })
    }

    fn layout(&mut self, device: &A::Device, bindings: &[(u32, bool)]) -> Result<usize, NoChain> {
        let mut bindings = bindings.to_vec();
        bindings.sort_unstable();
        if let Some(known) = self.layouts.iter().position(|layout| layout.bindings == bindings) {
            return Ok(known);
        }
        let entry = |&(binding, writes): &(u32, bool)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: !writes },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = bindings.iter().map(entry).collect();
        let flags = hal::BindGroupLayoutFlags::empty();
        let descriptor = hal::BindGroupLayoutDescriptor { label: None, flags, entries: &entries };
        let failed = |e: hal::DeviceError| NoChain(format!("making a layout: {e}"));
        // SAFETY: bindings ascend and each is there once, as the entries of a shader are; the limit on storage buffers was
        // looked at when the device was opened.
        let group = unsafe { device.create_bind_group_layout(&descriptor) }.map_err(failed)?;
        let descriptor = hal::PipelineLayoutDescriptor {
            label: None,
            flags: hal::PipelineLayoutFlags::empty(),
            bind_group_layouts: &[Some(&group)],
            immediate_size: IMMEDIATE_BYTES,
        };
        // SAFETY: the layout of the group was made by this device, which has so many bytes of immediates.
        match unsafe { device.create_pipeline_layout(&descriptor) } {
            Ok(pipeline) => {
                self.layouts.push(Layout { bindings, group, pipeline });
                Ok(self.layouts.len() - 1)
            }
            Err(e) => {
                // SAFETY: it was made by this device, and nothing was made with it.
                unsafe { device.destroy_bind_group_layout(group) };
                Err(failed(e))
            }
        }
    }

    fn make_pipeline(&mut self, device: &A::Device, shader: &ChainShader<'_>) -> Result<Pipeline<A>, NoChain> {
        let failed = |what: &str| format!("{}: {what}", shader.name);
        let layout = self.layout(device, shader.bindings)?;
        let (source, entry_point) = (shader.source)();
        if !self.modules.contains_key(shader.name) {
            let descriptor = hal::ShaderModuleDescriptor {
                label: Some(shader.name),
                runtime_checks: wgpu::ShaderRuntimeChecks::unchecked(),
            };
            let input = hal::ShaderInput::Naga(parsed(shader.name, &source)?);
            // SAFETY: naga has validated the module. Without checks indices stay within bindings because ops check the
            // shapes of all operands before a kernel is dispatched, and loops end after counts known from those shapes;
            // tests run every kernel with checks as well and compare.
            let module = unsafe { device.create_shader_module(&descriptor, input) };
            self.modules.insert(shader.name.to_owned(), module.map_err(|e| NoChain(failed(&e.to_string())))?);
        }
        let constants = shader.constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let descriptor = hal::ComputePipelineDescriptor {
            label: Some(shader.name),
            layout: &self.layouts[layout].pipeline,
            stage: hal::ProgrammableStage {
                module: &self.modules[shader.name],
                entry_point,
                constants: &constants,
                // kernels write workgroup memory before they read it; zeroing it is a serial loop on Metal
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        };
        // SAFETY: module and layout were made by this device, and the layout has the bindings that the caller says the
        // shader has: tests run every kernel through wgpu, which holds the same bindings against the shader.
        let raw = unsafe { device.create_compute_pipeline(&descriptor) };
        Ok(Pipeline { raw: raw.map_err(|e| NoChain(failed(&e.to_string())))?, layout })
    }

    fn make_group(
        &mut self,
        device: &A::Device,
        layout: usize,
        bindings: &[ChainBinding<'_>],
    ) -> Result<Group<A>, NoChain> {
        let mut bindings: Vec<_> = bindings.iter().collect();
        bindings.sort_unstable_by_key(|binding| binding.number);
        let numbers = bindings.iter().map(|binding| binding.number);
        let Layout { bindings: expected, group, .. } = &self.layouts[layout];
        if !numbers.eq(expected.iter().map(|binding| binding.0)) {
            return Err(NoChain("a bind group has other bindings than its pipeline".to_owned()));
        }
        let (mut parts, mut entries, mut touches) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (binding, (_, writes))) in bindings.iter().zip(expected).enumerate() {
            let ChainBinding { number, part, columns } = binding;
            // SAFETY: the buffer is only bound, and not destroyed before the group.
            let raw = unsafe { part.buffer.as_hal::<A>() };
            // Of these guards a thread may hold one at a time, but a group binds several buffers.
            let raw: *const A::Buffer = &*raw.ok_or_else(|| NoChain("a buffer of another device".to_owned()))?;
            let size = part.size.map_or(part.buffer.size().saturating_sub(part.offset), |size| size.get());
            if size == 0 || part.offset.checked_add(size).is_none_or(|end| end > part.buffer.size()) {
                return Err(NoChain(format!(
                    "binding {number}: expected a part of {} bytes, found {size} from {}",
                    part.buffer.size(),
                    part.offset
                )));
            }
            let next = self.buffers.len() as u32;
            let buffer = *self.buffers.entry(raw.addr()).or_insert(next);
            touches.push(Touch { buffer, columns: columns.clone(), writes: *writes });
            // SAFETY: `part` borrows the buffer until the end of this function, and nobody calls `destroy` on the buffers
            // of this program, so that the hal object stays where it is.
            let raw = unsafe { &*raw };
            parts.push(hal::BufferBinding::new_unchecked(raw, part.offset, std::num::NonZeroU64::new(size)));
            entries.push(hal::BindGroupEntry { binding: *number, resource_index: index as u32, count: 1 });
        }
        let descriptor = hal::BindGroupDescriptor {
            label: None,
            layout: group,
            buffers: &parts,
            samplers: &[],
            textures: &[],
            entries: &entries,
            acceleration_structures: &[],
            external_textures: &[],
        };
        // SAFETY: the entries are those of the layout, ascending, each with its own part of a buffer of this device.
        let raw = unsafe { device.create_bind_group(&descriptor) };
        let raw = raw.map_err(|e| NoChain(format!("making a bind group: {e}")))?;
        let buffers = bindings.iter().map(|binding| binding.part.buffer.clone()).collect();
        Ok(Group { raw, layout, touches, _buffers: buffers })
    }
}

/// The module of a shader. What the device cannot do is not asked here: whoever chooses kernels has.
fn parsed(name: &str, source: &str) -> Result<hal::NagaShader, NoChain> {
    let capabilities = naga::valid::Capabilities::all();
    let mut options = naga::front::wgsl::Options::new();
    options.capabilities = capabilities;
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(source)
        .map_err(|e| NoChain(format!("{name}: {}", e.emit_to_string(source))))?;
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|e| NoChain(format!("{name}: {}", e.emit_to_string(source))))?;
    Ok(hal::NagaShader { module: std::borrow::Cow::Owned(module), info, debug_source: None })
}

impl<A: ChainApi> Recorder for Links<A> {
    fn pipeline(&mut self, shader: &ChainShader<'_>) -> Result<ChainPipeline, NoChain> {
        let constants = shader.constants.iter().map(|(name, value)| ((*name).to_owned(), value.to_bits()));
        let key = (shader.name.to_owned(), constants.collect());
        if let Some(&known) = self.known.get(&key) {
            return Ok(known);
        }
        let owner = self.device.clone();
        // SAFETY: only the objects of this chain are made and destroyed.
        let device = unsafe { owner.as_hal::<A>() }.ok_or_else(|| NoChain("the device is gone".to_owned()))?;
        let pipeline = self.make_pipeline(&device, shader)?;
        self.pipelines.push(pipeline);
        let made = ChainPipeline(self.pipelines.len() as u32 - 1);
        self.known.insert(key, made);
        Ok(made)
    }

    fn forget_modules(&mut self) {
        // SAFETY: as in `pipeline`.
        let Some(device) = (unsafe { self.device.as_hal::<A>() }) else { return };
        for (_, module) in self.modules.drain() {
            // SAFETY: it was made by this device; pipelines do not need their modules once they are made.
            unsafe { device.destroy_shader_module(module) };
        }
    }

    fn group(&mut self, pipeline: ChainPipeline, bindings: &[ChainBinding<'_>]) -> Result<ChainGroup, NoChain> {
        let owner = self.device.clone();
        // SAFETY: as in `pipeline`.
        let device = unsafe { owner.as_hal::<A>() }.ok_or_else(|| NoChain("the device is gone".to_owned()))?;
        let group = self.make_group(&device, self.pipelines[pipeline.0 as usize].layout, bindings)?;
        match self.free.pop() {
            Some(place) => {
                self.groups[place as usize] = Some(group);
                Ok(ChainGroup(place))
            }
            None => {
                self.groups.push(Some(group));
                Ok(ChainGroup(self.groups.len() as u32 - 1))
            }
        }
    }

    fn retire(&mut self, group: ChainGroup, submission: u64) {
        if let Some(retired) = self.groups[group.0 as usize].take() {
            self.retired.push((submission, retired));
            self.free.push(group.0);
            // another group may come to have its number
            self.current.group = None;
        }
    }

    fn done(&mut self, submission: u64) {
        if self.retired.iter().all(|(last, _)| *last > submission) {
            return;
        }
        // SAFETY: as in `pipeline`.
        let Some(device) = (unsafe { self.device.as_hal::<A>() }) else { return };
        for (_, group) in self.retired.extract_if(.., |(last, _)| *last <= submission) {
            // SAFETY: it was made by this device, and the last submission that may use it is done.
            unsafe { device.destroy_bind_group(group.raw) };
        }
    }

    fn begin(&mut self, encoder: &mut wgpu::CommandEncoder) {
        self.current = Current::default();
        self.hazards.barrier();
        let barriers = &self.barriers;
        // SAFETY: the encoder is not used through wgpu (it would panic). It is recording while it is in the closure, and a
        // pass is begun outside of any other.
        unsafe {
            encoder.as_hal_mut::<A, _, _>(|encoder| {
                // without it the device is lost, which the submission will say
                let Some(encoder) = encoder else { return };
                A::barrier(barriers, encoder, Between::All);
                encoder.begin_compute_pass(&hal::ComputePassDescriptor { label: None, timestamp_writes: None });
            });
        }
    }

    fn record(&mut self, encoder: &mut wgpu::CommandEncoder, links: &mut dyn Iterator<Item = Link<'_>>) -> Recorded {
        let mut recorded = Recorded::default();
        let append = |encoder: &mut A::CommandEncoder| {
            for link in links {
                let pipeline = &self.pipelines[link.pipeline.0 as usize];
                let group = self.groups[link.group.0 as usize].as_ref().expect("a group is used until it is retired");
                assert_eq!(group.layout, pipeline.layout, "a group is made for its pipeline");
                assert!(link.immediates.len() * 4 <= IMMEDIATE_BYTES as usize, "immediates are 16 words at most");
                let layout = &self.layouts[pipeline.layout].pipeline;
                let waits = self.hazards.conflicts(&group.touches, link.beside);
                if waits {
                    self.hazards.barrier();
                }
                self.hazards.touch(&group.touches, link.beside);
                // SAFETY: the encoder is recording, in a pass that `begin` began. Pipeline, layout and group were made by
                // its device and for each other, as was asserted, and live until the submission is done: `retire` and
                // `drop` see to that. What one dispatch writes and another touches has a barrier in between; of those that are
                // beside each other the caller has said that no two touch the same of it.
                unsafe {
                    if waits {
                        A::barrier(&self.barriers, encoder, Between::Dispatches);
                    }
                    if self.current.pipeline.replace(link.pipeline.0) != Some(link.pipeline.0) {
                        encoder.set_compute_pipeline(&pipeline.raw);
                    }
                    if self.current.group.replace(link.group.0) != Some(link.group.0) {
                        encoder.set_bind_group(layout, 0, &group.raw, &[]);
                    }
                    if !link.immediates.is_empty() {
                        encoder.set_immediates(layout, 0, link.immediates);
                    }
                    encoder.dispatch_workgroups(link.grid);
                }
                recorded.dispatches += 1;
                recorded.barriers += u64::from(waits);
            }
        };
        // SAFETY: the encoder was begun by `begin`, and is not used through wgpu.
        unsafe { encoder.as_hal_mut::<A, _, _>(|encoder| encoder.map(append)) };
        recorded
    }

    fn end(&mut self, encoder: &mut wgpu::CommandEncoder) {
        let barriers = &self.barriers;
        // SAFETY: as in `begin`; the pass that is ended is the one that was begun there.
        unsafe {
            encoder.as_hal_mut::<A, _, _>(|encoder| {
                let Some(encoder) = encoder else { return };
                encoder.end_compute_pass();
                A::barrier(barriers, encoder, Between::All);
            });
        }
    }
}

impl<A: ChainApi> Drop for Links<A> {
    fn drop(&mut self) {
        // a device that is lost does nothing any more
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
        // SAFETY: as in `pipeline`.
        let Some(device) = (unsafe { self.device.as_hal::<A>() }) else { return };
        let retired = self.retired.drain(..).map(|(_, group)| group);
        // SAFETY: all were made by this device, which has done everything that was submitted; what was not submitted will
        // not be. What others are made of goes after them.
        unsafe {
            for group in self.groups.drain(..).flatten().chain(retired) {
                device.destroy_bind_group(group.raw);
            }
            for pipeline in self.pipelines.drain(..) {
                device.destroy_compute_pipeline(pipeline.raw);
            }
            for (_, module) in self.modules.drain() {
                device.destroy_shader_module(module);
            }
            for layout in self.layouts.drain(..) {
                device.destroy_pipeline_layout(layout.pipeline);
                device.destroy_bind_group_layout(layout.group);
            }
        }
    }
}
