//! How many threads the products of one token are spread over on this device: measured once, then kept in a file.
//!
//! Only threads are tuned, never what decides the order of additions (see [`Team`]), so text is the same to the bit.
//! What is measured are dispatches of the recording itself on its own weights, each waiting for the one before as in a
//! token: a sweep of calls that overlap prefers other teams (`benches/results/README.md`).

mod file;

use std::time::{Duration, Instant};

use flashflood_backends::gpu::Gpu;

use self::file::TeamFile;
use super::pipelines::{PassStage, Pipelines};
use super::readback::{Readback, wait};
use super::resident::Resident;
use super::slots::GpuSlots;
use crate::compute::kernel::{Access, Binding, Dispatch};
use crate::compute::ops::{Experts, Pair, ProductShape, Team};
use crate::compute::recording::{Recorded, Recording, Rows};
use crate::compute::step::{ExecuteError, Step};
use crate::experts::SlotMemory;

/// How many threads products are spread over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Teams {
    /// What is best on the machine of the developers.
    #[default]
    BuiltIn,
    /// What is fastest here, measured where it is not known yet.
    Measured {
        /// Whether a file in the user's cache folder is read and written.
        kept: bool,
    },
    /// The candidate of this number, 0 being the built-in one: for tests that the text does not depend on it.
    #[cfg(test)]
    Candidate(usize),
}

/// What a step reads while products are measured, where there is that much; caches hold less.
const MEASURED: u64 = 128 << 20;
/// Layers that are measured.
const LAYERS: usize = 16;
/// Runs of each candidate, in turn, so that a device that wakes up slowly is fair to all; the best counts.
const RUNS: usize = 4;
/// So much of the built-in team's time a better one may take: differences below are noise.
const BETTER: f64 = 0.97;
/// No product is begun after this time: the others keep their built-in teams until the program starts again.
const BUDGET: Duration = Duration::from_millis(600);

/// A recording that is being made ready.
pub(super) struct Subject<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) recording: &'a Recording,
    pub(super) slots: Option<&'a GpuSlots>,
}

/// A product: its shape, and in which steps of the recording and which of their stages it is taken.
type Uses = (ProductShape, Vec<(usize, usize)>);

/// Pipelines, bind groups and dispatches of a product with one team.
type Calls = Vec<(PassStage, Vec<Dispatch>)>;

impl Subject<'_> {
    /// Decides `resident.teams`.
    pub(super) fn choose(&self, teams: Teams, pipelines: &mut Pipelines, resident: &mut Resident) {
        match teams {
            Teams::BuiltIn => {}
            #[cfg(test)]
            Teams::Candidate(number) => {
                for (shape, _) in self.products(resident) {
                    let candidates = shape.candidates();
                    resident.teams.insert(shape, candidates[number % candidates.len()]);
                }
            }
            Teams::Measured { kept } => {
                let folder = if kept { flashflood_backends::folders::cache() } else { None };
                let path = folder.map(|folder| folder.join(env!("CARGO_PKG_NAME")).join("teams.json"));
                let mut file = path.map(|path| TeamFile::open(&path, env!("CARGO_PKG_VERSION")));
                if let Err(e) = self.measure(file.as_mut(), pipelines, resident) {
                    tracing::warn!("measuring products: {e}");
                }
                if let Some(file) = file {
                    file.save();
                }
            }
        }
    }

    fn products(&self, resident: &Resident) -> Vec<Uses> {
        let mut all: Vec<Uses> = Vec::new();
        for (index, step) in self.recording.steps.iter().enumerate() {
            let products: Vec<(usize, ProductShape)> = match step {
                Recorded::Kernel { kernel, .. } => kernel.products(resident).into_iter().enumerate().collect(),
                Recorded::Experts(op) => op.products().collect(),
                Recorded::Route(_) | Recorded::LayerDone(_) => Vec::new(),
            };
            for (stage, shape) in products {
                match all.iter_mut().find(|(known, _)| *known == shape) {
                    Some((_, uses)) => uses.push((index, stage)),
                    None => all.push((shape, vec![(index, stage)])),
                }
            }
        }
        all
    }

    fn measure(
        &self,
        mut file: Option<&mut TeamFile>,
        pipelines: &mut Pipelines,
        resident: &mut Resident,
    ) -> Result<(), ExecuteError> {
        let info = &self.gpu.info;
        let device = format!("{} ({:?}), {} {}", info.name, info.backend, info.driver, info.driver_info);
        let mut clock = None;
        let (start, mut measured, mut left) = (Instant::now(), 0, 0);
        for (shape, uses) in self.products(resident) {
            let candidates = shape.candidates();
            if candidates.len() == 1 {
                continue;
            }
            let known = file.as_ref().and_then(|file| file.team(&device, &shape.to_string()));
            // whatever the file says, the kernel is made for these alone
            if let Some(team) = known.filter(|team| candidates.contains(team)) {
                resident.teams.insert(shape, team);
                continue;
            }
            if start.elapsed() > BUDGET {
                left += 1;
                continue;
            }
            let clock = clock.get_or_insert_with(|| Clock::new(self.gpu, self.out_bytes()));
            let best = self.fastest(&shape, &candidates, &uses, clock, pipelines, resident);
            // until it is known, the built-in one
            resident.teams.remove(&shape);
            let team = best?;
            resident.teams.insert(shape, team);
            if let Some(file) = &mut file {
                file.set(&device, shape.to_string(), team);
            }
            measured += 1;
        }
        if measured > 0 {
            tracing::info!("measured {measured} products in {:.2?}, left {left}", start.elapsed());
        }
        Ok(())
    }

    /// Bytes of the widest output of one token.
    fn out_bytes(&self) -> u64 {
        let words = self.recording.tensors.iter().map(|spec| match spec.rows {
            Rows::PerToken(n) => spec.stride * n,
            Rows::PerLogits => spec.stride,
            Rows::Fixed(_) => 0,
        });
        words.max().unwrap_or(0) as u64 * 4
    }

    fn fastest(
        &self,
        shape: &ProductShape,
        candidates: &[Team],
        uses: &[(usize, usize)],
        clock: &mut Clock,
        pipelines: &mut Pipelines,
        resident: &mut Resident,
    ) -> Result<Team, ExecuteError> {
        let mut trials = Vec::new();
        for &team in candidates {
            resident.teams.insert(*shape, team);
            trials.push((team, self.calls(uses, &clock.out, pipelines, resident), Duration::MAX));
        }
        for _ in 0..RUNS {
            for (_, calls, best) in &mut trials {
                *best = clock.time(calls)?.min(*best);
            }
        }
        let built_in = trials[0].2;
        let (team, _, time) = trials.iter().min_by_key(|trial| trial.2).expect("the built-in one is a candidate");
        let better = time.as_secs_f64() < BETTER * built_in.as_secs_f64();
        tracing::debug!("{shape}: {team:?} {time:?}, built-in {:?} {built_in:?}", candidates[0]);
        Ok(if better { *team } else { candidates[0] })
    }

    /// A product of several layers, as they would be encoded for one token, all with the output `out`.
    fn calls(
        &self,
        uses: &[(usize, usize)],
        out: &wgpu::Buffer,
        pipelines: &mut Pipelines,
        resident: &Resident,
    ) -> Calls {
        let step = Step::decode(0);
        let (mut calls, mut bytes) = (Vec::new(), 0);
        for &(index, stage) in uses.iter().take(LAYERS) {
            let (stages, mut dispatches, slabs) = match &self.recording.steps[index] {
                Recorded::Kernel { kernel, .. } => {
                    let mut dispatches = Vec::new();
                    kernel.dispatch(resident, &step, &mut dispatches);
                    (kernel.stages(resident), dispatches, Vec::new())
                }
                Recorded::Experts(op) => match self.expert_dispatches(op, calls.len(), resident) {
                    Some((dispatches, slabs)) => (op.stages(resident, slabs.len()), dispatches, slabs),
                    None => continue,
                },
                Recorded::Route(_) | Recorded::LayerDone(_) => continue,
            };
            dispatches.retain(|dispatch| dispatch.stage == stage);
            let resource = |b: Binding| match b.0 {
                Access::Write => Some(out.as_entire_buffer_binding()),
                Access::Read => resident.binding(b.1, &slabs),
            };
            bytes += dispatches.iter().map(|dispatch| dispatch.weight_bytes).sum::<u64>();
            calls.push((pipelines.ready(&stages[stage], resource), dispatches));
            if bytes >= MEASURED {
                break;
            }
        }
        calls
    }

    /// The experts of one token in slots of the layer, whatever these hold by now: pairs of call `call`.
    fn expert_dispatches(
        &self,
        op: &Experts,
        call: usize,
        resident: &Resident,
    ) -> Option<(Vec<Dispatch>, Vec<Option<wgpu::Buffer>>)> {
        let slots = self.slots?;
        // the buffer holds pairs of so many calls
        if call >= self.recording.max_tokens {
            return None;
        }
        let (slab, buffer) = slots.slabs_of(op.layer).find_map(|slab| Some((slab, slots.slab(slab).0?)))?;
        let places: Vec<usize> =
            slots.set(op.layer).map(|slot| slots.place(slot)).filter(|p| p.0 == slab).map(|p| p.1).collect();
        let top_k = op.out.rows_per_token;
        let first = call * top_k;
        let pair = |row: usize| Pair {
            token: 0,
            row: row as u32,
            slot: places[(first + row) % places.len()] as u32,
            slab: slab as u32,
        };
        let pairs: Vec<Pair> = (0..top_k).map(pair).collect();
        let at = (first * size_of::<Pair>()) as u64;
        self.gpu.queue.write_buffer(resident.pairs(), at, bytemuck::cast_slice(&pairs));
        let mut dispatches = Vec::new();
        op.dispatch(resident, slab, first, top_k, slots.slot_bytes(), &mut dispatches);
        let mut slabs = vec![None; slots.slabs()];
        slabs[slab] = Some(buffer);
        Some((dispatches, slabs))
    }
}

/// Times dispatches: by the device's clock where it has one, else by ours.
struct Clock {
    device: wgpu::Device,
    queue: wgpu::Queue,
    queries: Option<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    readback: Readback,
    /// What all dispatches write, so that each waits for the one before.
    out: wgpu::Buffer,
}

impl Clock {
    fn new(gpu: &Gpu, out_bytes: u64) -> Self {
        let device = &gpu.device;
        let queries = device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| {
            let ty = wgpu::QueryType::Timestamp;
            device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("autotune"), ty, count: 2 })
        });
        let buffer = |size, usage| {
            let label = Some("autotune");
            device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
        };
        Clock {
            queries,
            resolved: buffer(16, wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            readback: Readback::new(device, 16),
            out: buffer(out_bytes.max(16).next_multiple_of(16), wgpu::BufferUsages::STORAGE),
            device: device.clone(),
            queue: gpu.queue.clone(),
        }
    }

    fn time(&mut self, calls: &Calls) -> Result<Duration, ExecuteError> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let timestamps = self.queries.as_ref().map(|query_set| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        });
        {
            let descriptor = wgpu::ComputePassDescriptor { label: Some("autotune"), timestamp_writes: timestamps };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            for (ready, dispatches) in calls {
                dispatches.iter().for_each(|dispatch| ready.encode(&mut pass, dispatch));
            }
        }
        if let Some(queries) = &self.queries {
            encoder.resolve_query_set(queries, 0..2, &self.resolved, 0);
            self.readback.copy(&mut encoder, &self.resolved, 0, 0, 16);
        }
        let start = Instant::now();
        let submission = self.queue.submit([encoder.finish()]);
        if self.queries.is_none() {
            wait(&self.device, &submission)?;
            return Ok(start.elapsed());
        }
        let ticks: Vec<u64> = self.readback.read(&submission, 16, bytemuck::pod_collect_to_vec)?;
        let nanoseconds = ticks[1].saturating_sub(ticks[0]) as f64 * f64::from(self.queue.get_timestamp_period());
        // a clock that stands still says nothing
        Ok(if nanoseconds > 0.0 { Duration::from_nanos(nanoseconds as u64) } else { Duration::MAX })
    }
}
