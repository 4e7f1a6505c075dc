//! Opens a model: decides the memory plan before anything large is allocated, records the forward pass, and makes it
//! ready on a device.

mod activity;
mod device;
mod options;
mod pace;
mod plan;
mod pressure;
mod text;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use crate::compute::KvFormat;
#[cfg(feature = "server")]
pub(crate) use activity::Watcher;
pub(crate) use activity::{Activity, Waits};
pub use device::{Activations, Device, OpenedDevice};
pub use options::OpenRequest;
pub(crate) use pace::ConditionsSource;
pub use pace::Suspension;
pub(crate) use pace::{Pace, Wait};
pub(crate) use plan::PlanError;
pub use plan::{ExpertBudget, MemoryPlan};

use plan::Wishes;
use pressure::PressureWatch;

use crate::compute::cpu::CpuExecutor;
use crate::compute::gpu::{GpuExecutor, GpuOptions, GpuSlots, Teams};
use crate::compute::ops::Unscaled;
use crate::compute::{self, ExecuteError, LayerState, Lowering, Recording, Runner, ShapeError, lower};
use crate::experts::trace::{TraceLayer, TraceShape};
use crate::experts::{ExpertReader, ExpertStore, FileReader, HostSlots, Reads, SlotMemory, SlotSets, StoreError};
use crate::model::{ModelSource, RopeScaling, Shape, SourceError, TextFiles};
use crate::text::{ChatTemplate, GenerationConfig, ModelText, TextError, Tokenizer};
use crate::weights::{LayerExperts, Matrix, check_resident};

/// Worker threads that read experts: enough to keep an SSD's queue full.
const READ_THREADS: usize = 16;

/// How a model is opened.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where to compute.
    pub device: Device,
    /// What products multiply weights with.
    pub activations: Activations,
    /// Positions that caches have room for; `None` takes as many as an eighth of free memory holds, 8,192 at least, up to what
    /// the model was trained for or is stretched to.
    pub context: Option<usize>,
    /// How keys and values of the context are kept.
    pub kv: KvFormat,
    /// How rotary positions are stretched to contexts that the model was not trained for.
    pub rope_scaling: RopeScaling,
    /// Memory for routed experts.
    pub experts: ExpertBudget,
    /// How the files of experts are read.
    pub reads: Reads,
    /// Most tokens of a prompt in one step. Each expert that they need is read once for all of them. `None` takes what
    /// memory has room for, at most 4,096; with multiples of 32 the GPU gives the same bits whatever it is.
    pub chunk: Option<usize>,
    /// Experts of the next layer that are read before its router has chosen, guessed from this layer's input; 0 reads
    /// none.
    pub look_ahead: usize,
    /// Measures how many threads products are best spread over, and keeps it in a file in the user's cache folder; never
    /// on software drivers. The text is the same with and without.
    pub autotune: bool,
    /// Folders on other disks whose `experts/` hold some layers' files of a pack.
    pub stripe: Vec<PathBuf>,
    /// Percent of the time to work, 1 to 100: the rest is for other programs, for the fan and for the battery.
    pub power: u32,
    /// Holds the resident weights of a pack, and the files beside them, against its manifest.
    pub verify: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            device: Device::Auto,
            activations: Activations::Auto,
            context: None,
            kv: KvFormat::default(),
            rope_scaling: RopeScaling::Auto,
            experts: ExpertBudget::Auto,
            reads: Reads::Auto,
            chunk: None,
            look_ahead: 0,
            autotune: false,
            stripe: Vec::new(),
            power: 100,
            verify: true,
        }
    }
}

impl EngineOptions {
    /// Experts of the next layer that are guessed: none when all are in memory.
    fn guessed(&self) -> usize {
        if self.experts == ExpertBudget::All { 0 } else { self.look_ahead }
    }
}

/// Why a model could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model's files.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A weight does not fit the forward pass.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The experts.
    #[error(transparent)]
    Experts(#[from] StoreError),
    /// The device.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// No such device.
    #[error("{0} (hint: --device cpu needs none)")]
    Device(#[from] flashflood_backends::gpu::GpuError),
    /// The memory plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Tokenizer, template or generation config.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A file that text needs is not there.
    #[error("{root}: {file} is missing; without it there is no {need}", root = root.display())]
    NoTextFile {
        /// The model's folder.
        root: PathBuf,
        /// File name.
        file: &'static str,
        /// What it is for.
        need: &'static str,
    },
}

/// A model that is recorded for a device and has its plan, with nothing allocated.
struct Planned {
    shape: Shape,
    recording: Recording,
    plan: MemoryPlan,
    /// Largest tensor that the device can bind, in bytes.
    binding: u64,
}

impl Planned {
    fn new(
        source: &ModelSource,
        device: &OpenedDevice,
        options: &EngineOptions,
        gpu_options: GpuOptions,
    ) -> Result<Planned, EngineError> {
        let how = Lowering {
            activations: options.activations.on(device),
            look_ahead: options.guessed() > 0,
            unscaled: matches!(device, OpenedDevice::Gpu(gpu) if Unscaled::fits(&gpu.limits)),
            kv: options.kv,
        };
        let mut recording = lower(source.recording.clone(), how)?;
        let binding = match device {
            OpenedDevice::Gpu(gpu) => gpu_options.binding_on(gpu),
            OpenedDevice::Cpu => u64::MAX,
        };
        let EngineOptions { context, rope_scaling: rope, chunk, experts, kv, .. } = *options;
        let shape = source.shape_with(rope)?;
        let wishes = Wishes { context, rope, chunk, experts, kv, binding };
        let plan = MemoryPlan::new(&shape, &mut recording, source.experts(), &wishes)?;
        Ok(Planned { shape, recording, plan, binding })
    }
}

/// A loaded model.
pub struct Engine {
    pub(crate) shape: Shape,
    /// What tells its sessions from those of other models: the text of `config.json`, and how rotary positions are stretched
    /// where it says something else.
    pub(crate) config: String,
    pub(crate) embed: Matrix,
    pub(crate) runner: Box<Runner<dyn compute::Device>>,
    /// Of a model with routed experts.
    pub(crate) store: Option<ExpertStore>,
    pub(crate) state: Vec<LayerState>,
    pub(crate) recording: Arc<Recording>,
    pub(crate) context: usize,
    root: PathBuf,
    text_files: TextFiles,
    /// Made when text is first asked for.
    text: OnceLock<Arc<ModelText>>,
    plan: MemoryPlan,
    watch: Option<PressureWatch>,
    pace: Pace,
    activity: Arc<Activity>,
    /// The device finds experts by itself: all are in memory, and which are used the host is not told.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "only the server's clients look"))]
    looks_up: bool,
    /// Prompts are multiplied in f16 where tokens of decode are in f32.
    pub(crate) rounds_prompts: bool,
}

impl Engine {
    /// Where memory would go on `device`, without loading anything: as the plan of an engine opened in its place.
    ///
    /// # Errors
    /// What opening says, as far as the plan.
    pub fn plan_for(
        source: &ModelSource,
        device: &OpenedDevice,
        options: &EngineOptions,
    ) -> Result<MemoryPlan, EngineError> {
        Ok(Planned::new(source, device, options, GpuOptions::default())?.plan)
    }

    /// Opens the model at `path` (a snapshot folder, a GGUF file or a pack).
    ///
    /// # Errors
    /// Files that are missing, damaged or of another model; a memory plan that does not fit; no device.
    pub fn open(path: &Path, options: &EngineOptions) -> Result<Engine, EngineError> {
        Self::from_source(ModelSource::open_striped(path, &options.stripe)?, options)
    }

    /// Opens the small model that is inside the program.
    ///
    /// # Errors
    /// As [`open`](Engine::open).
    pub fn embedded(options: &EngineOptions) -> Result<Engine, EngineError> {
        Self::from_source(ModelSource::embedded()?, options)
    }

    /// Opens a model whose source is open.
    pub fn from_source(source: ModelSource, options: &EngineOptions) -> Result<Engine, EngineError> {
        Self::with_gpu_options(source, options, GpuOptions::default())
    }

    /// Opens a model, made ready for a GPU as `gpu_options` say.
    pub(crate) fn with_gpu_options(
        source: ModelSource,
        options: &EngineOptions,
        gpu_options: GpuOptions,
    ) -> Result<Engine, EngineError> {
        let direct = options.reads.is_direct(source.experts(), flashflood_backends::memory::available_memory());
        let mut reader = FileReader::open_for(source.experts(), direct)?;
        if options.reads == Reads::Threads {
            reader = reader.without_queue()?;
        }
        let reader = Arc::new(reader);
        match (direct, reader.is_direct()) {
            _ if source.experts().layers.is_empty() => {}
            (true, true) if reader.is_queued() => tracing::info!("experts are read past the page cache, queued"),
            (true, true) => tracing::info!("experts are read past the page cache, on threads"),
            (true, false) => {
                tracing::info!("experts are read through the page cache: the file system has no direct reads")
            }
            (false, _) => tracing::info!("experts are read through the page cache"),
        }
        Self::with_parts(source, reader, options, gpu_options)
    }

    /// Opens a model whose experts come from `reader`, made ready for a GPU as `gpu_options` say.
    pub(crate) fn with_parts(
        source: ModelSource,
        reader: Arc<dyn ExpertReader>,
        options: &EngineOptions,
        gpu_options: GpuOptions,
    ) -> Result<Engine, EngineError> {
        let device = OpenedDevice::open(options.device)?;
        let Planned { shape, recording, plan, binding } = Planned::new(&source, &device, options, gpu_options)?;
        // read before anything touches what is mapped: there, a disk that fails is a signal and no error
        if options.verify {
            source.verify()?;
        }
        check_resident(&source.weights, &source.root, source.shape.tied_embeddings).map_err(SourceError::File)?;
        // the lowered recording holds views of what it needs; the rest of the resident file can go
        let said = source.shape.yarn();
        let ModelSource { weights, mut config, root, text_files, embedding: embed, .. } = source;
        if shape.yarn() != said {
            // keys and values that were rotated in another way
            config.push_str(&format!("\n{:?}", shape.yarn()));
        }
        let context = plan.context;
        let look_ahead = options.guessed();
        let recording = Arc::new(recording);
        let experts = Arc::new(weights.experts);
        drop(weights.resident);
        let has_experts = !experts.layers.is_empty();
        let rounds_prompts = options.activations.rounds_prompts(&device);
        let looks_up = has_experts && options.experts == ExpertBudget::All && matches!(device, OpenedDevice::Gpu(_));
        let store =
            |memory: Arc<dyn SlotMemory>| ExpertStore::new(experts.clone(), memory, reader.clone(), READ_THREADS);
        let (runner, store): (Box<Runner<dyn compute::Device>>, _) = match device {
            OpenedDevice::Gpu(gpu) => {
                let (top_k, landing) = (experts.most_of_a_token(), gpu_options.landing);
                let slots = || {
                    let sets = SlotSets::new(&experts, plan.slots);
                    GpuSlots::new(&gpu, sets, experts.slot_bytes(), top_k, binding, landing).map(Arc::new)
                };
                let slots = has_experts.then(slots).transpose()?;
                let mut store = slots.clone().map(|slots| store(slots)).transpose()?;
                let is_software = gpu.info.device_type == wgpu::DeviceType::Cpu;
                let teams = match options.autotune && !is_software {
                    true => Teams::Measured { kept: true },
                    false => gpu_options.teams,
                };
                let allows = |units| options.activations.allows(units);
                let exact = gpu.matrix_units.is_some_and(|units| !allows(units)).then_some(false);
                let cooperative = gpu_options.cooperative.or(exact);
                let gpu_options = GpuOptions { teams, cooperative, ..gpu_options };
                let runner = GpuExecutor::new(*gpu, recording.clone(), context, slots, gpu_options)?;
                let mut runner = runner.with_look_ahead(look_ahead);
                if let (ExpertBudget::All, Some(store)) = (options.experts, &mut store) {
                    runner.make_resident(store)?;
                }
                (Box::new(runner), store)
            }
            OpenedDevice::Cpu => {
                let slots = || HostSlots::new(plan.slots, experts.slot_bytes()).map(Arc::new);
                let slots = has_experts.then(slots).transpose()?;
                let store = slots.clone().map(|slots| store(slots)).transpose()?;
                let runner = CpuExecutor::try_new(recording.clone(), context, slots)?.with_look_ahead(look_ahead);
                (Box::new(runner), store)
            }
        };
        let pace = Pace::new(options.power);
        let activity = Arc::new(Activity::new(store.as_ref().map(|store| store.activity().clone())));
        let mut engine = Engine {
            shape,
            config,
            embed,
            state: recording.layers.clone(),
            runner,
            store,
            recording,
            context,
            root,
            text_files,
            text: OnceLock::new(),
            plan,
            watch: None,
            pace,
            activity,
            looks_up,
            rounds_prompts,
        };
        if options.experts == ExpertBudget::Auto {
            engine.watch = engine.store.as_ref().and_then(|store| PressureWatch::new(store, &engine.plan));
        }
        Ok(engine)
    }

    /// Keeps the expert cache within what the machine has free, when its size was left to us.
    pub(crate) fn relieve_memory(&mut self) {
        let Some(watch) = &self.watch else { return };
        if let (Some(now), Some(store)) = (self.pace.news(), &mut self.store) {
            watch.check(store, &now);
        }
    }

    /// What this engine does, for whoever looks.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Whether the device finds experts by itself, so that nobody hears which are used.
    #[cfg(feature = "server")]
    pub(crate) fn looks_up(&self) -> bool {
        self.looks_up
    }

    /// Time that was spent waiting so far.
    pub(crate) fn waits(&self) -> Waits {
        let disk = self.store.as_ref().map(|store| store.stats().stall_time).unwrap_or_default();
        Waits { disk, device: self.runner.waited() }
    }

    /// How fast this engine works.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Takes the state of the machine from `source` from now on, which is asked at every step: a machine that is hot
    /// or short of memory, for tests.
    pub fn watch_conditions(&mut self, source: ConditionsSource) {
        self.pace.watch(source);
    }

    /// The most experts that may be in memory now; `None` for a model without routed experts.
    pub fn expert_limit(&self) -> Option<usize> {
        self.store.as_ref().map(ExpertStore::limit)
    }

    pub(crate) fn trace_shape(&self) -> TraceShape {
        let layers = self.store.as_ref().map_or(&[][..], |store| &store.layout().layers);
        let layer = |layer: &LayerExperts| TraceLayer { experts: layer.experts, top_k: layer.top_k };
        TraceShape { layers: layers.iter().map(layer).collect(), slot_bytes: self.plan.slot_bytes as usize }
    }

    /// Sizes of the model, and what kinds of layers it has.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Where memory goes.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// Positions that caches have room for.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Name of the device, for people.
    pub fn device(&self) -> String {
        self.runner.device()
    }

    /// All that the model has for text, made once.
    pub(crate) fn text(&self) -> Result<Arc<ModelText>, EngineError> {
        if let Some(text) = self.text.get() {
            return Ok(text.clone());
        }
        let template = self.chat_template().map_err(|e| e.to_string());
        let made = Arc::new(ModelText::new(self.tokenizer()?, template, self.generation_config()?));
        Ok(self.text.get_or_init(|| made).clone())
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, EngineError> {
        text::tokenizer(&self.root, &self.text_files)
    }

    /// The model's chat template.
    pub fn chat_template(&self) -> Result<ChatTemplate, EngineError> {
        text::chat_template(&self.root, &self.text_files)
    }

    /// The model's defaults for sampling and its stop ids.
    pub fn generation_config(&self) -> Result<GenerationConfig, EngineError> {
        match &self.text_files.generation_config {
            Some(json) => {
                let path = self.text_files.path(&self.root, "generation_config.json");
                Ok(GenerationConfig::from_json(&path, json)?)
            }
            None => Ok(GenerationConfig::default()),
        }
    }
}
