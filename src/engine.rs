//! Opens a model: decides the memory plan before anything large is allocated, records the forward pass, and makes it
//! ready on a device.

mod device;
mod options;
mod pace;
mod plan;
mod pressure;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use device::{Activations, Device, OpenedDevice};
pub use options::OpenRequest;
pub(crate) use pace::Pace;
pub use pace::{ConditionsSource, Suspension};
pub use plan::{ExpertBudget, MemoryPlan, PlanError, bytes_for_people};

use plan::Wishes;
use pressure::PressureWatch;

use crate::compute::cpu::CpuExecutor;
use crate::compute::gpu::{GpuExecutor, GpuOptions, GpuSlots, Teams};
use crate::compute::{ExecuteError, Executor, Recording, ShapeError};
use crate::experts::trace::TraceShape;
use crate::experts::{ExpertReader, ExpertStore, FileReader, HostSlots, Reads, SlotMemory, StoreError, set_size};
use crate::model::{Config, Forward, LayerState, Matrix, ModelSource, SourceError, forward};
use crate::request::Language;
use crate::session::Session;
use crate::text::{ChatTemplate, GenerationConfig, TextError, Tokenizer};

/// Worker threads that read experts: enough to keep an SSD's queue full.
const READ_THREADS: usize = 16;

/// How a model is opened.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where to compute.
    pub device: Device,
    /// What products multiply weights with.
    pub activations: Activations,
    /// Positions that caches have room for; `None` takes 8,192 or what the model was trained for.
    pub context: Option<usize>,
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
    /// Runtime checks in shaders, and smaller bindings: for tests.
    pub gpu: GpuOptions,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            device: Device::Auto,
            activations: Activations::Auto,
            context: None,
            experts: ExpertBudget::Auto,
            reads: Reads::Auto,
            chunk: None,
            look_ahead: 0,
            autotune: false,
            stripe: Vec::new(),
            power: 100,
            gpu: GpuOptions::default(),
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
    recording: Recording,
    state: Vec<LayerState>,
    plan: MemoryPlan,
    /// Largest tensor that the device can bind, in bytes.
    binding: u64,
}

impl Planned {
    fn new(source: &ModelSource, device: &OpenedDevice, options: &EngineOptions) -> Result<Planned, EngineError> {
        let ModelSource { config, weights, experts, .. } = source;
        let form = options.activations.on(device);
        let Forward { mut recording, state } =
            forward::record(config, weights, experts, 1, form, options.guessed() > 0)?;
        let context = match options.context {
            Some(context) => context.max(1),
            None => config.max_positions.clamp(1, plan::DEFAULT_CONTEXT),
        };
        let binding = match device {
            OpenedDevice::Gpu(gpu) => options.gpu.binding_on(gpu),
            OpenedDevice::Cpu => u64::MAX,
        };
        let wishes = Wishes { context, chunk: options.chunk, experts: options.experts, binding };
        let plan = MemoryPlan::new(config, &mut recording, experts, &wishes)?;
        Ok(Planned { recording, state, plan, binding })
    }
}

/// A loaded model.
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) embed: Matrix,
    pub(crate) executor: Box<dyn Executor>,
    pub(crate) state: Vec<LayerState>,
    pub(crate) recording: Arc<Recording>,
    pub(crate) context: usize,
    root: PathBuf,
    text: crate::model::TextFiles,
    plan: MemoryPlan,
    watch: Option<PressureWatch>,
    language: OnceLock<Arc<Language>>,
    pace: Pace,
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
        Ok(Planned::new(source, device, options)?.plan)
    }

    /// Opens the model at `path` (a snapshot folder or a pack).
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
        let direct = options.reads.is_direct(&source.experts, flashflood_backends::memory::available_memory());
        let mut reader = FileReader::open_for(&source.experts, direct)?;
        if options.reads == Reads::Threads {
            reader = reader.without_queue()?;
        }
        let reader = Arc::new(reader);
        match (direct, reader.is_direct()) {
            (true, true) if reader.is_queued() => tracing::info!("experts are read past the page cache, queued"),
            (true, true) => tracing::info!("experts are read past the page cache, on threads"),
            (true, false) => {
                tracing::info!("experts are read through the page cache: the file system has no direct reads")
            }
            (false, _) => tracing::info!("experts are read through the page cache"),
        }
        Self::with_reader(source, reader, options)
    }

    /// Opens a model whose experts come from `reader`: tests inject faults here.
    pub fn with_reader(
        source: ModelSource,
        reader: Arc<dyn ExpertReader>,
        options: &EngineOptions,
    ) -> Result<Engine, EngineError> {
        let device = OpenedDevice::open(options.device)?;
        let Planned { recording, state, plan, binding } = Planned::new(&source, &device, options)?;
        let ModelSource { config, weights, experts, root, text_files: text } = source;
        let embed = weights.embed_tokens.clone();
        // the recording holds views of what it needs; the rest of the resident file can go
        drop(weights);
        let context = plan.context;
        let look_ahead = options.guessed();
        let recording = Arc::new(recording);
        let experts = Arc::new(experts);
        let store = |memory: Arc<dyn SlotMemory>| {
            ExpertStore::new(experts.clone(), config.top_k, memory, reader.clone(), READ_THREADS)
        };
        let executor: Box<dyn Executor> = match device {
            OpenedDevice::Gpu(gpu) => {
                let slot_bytes = experts.slot_bytes();
                let (top_k, landing) = (config.top_k, options.gpu.landing);
                let set = set_size(plan.slots, &experts, top_k);
                let slots = GpuSlots::new(&gpu, plan.slots, set, slot_bytes, top_k, binding, landing)?;
                let slots = Arc::new(slots);
                let store = store(slots.clone())?;
                let each = config.experts;
                let is_software = gpu.info.device_type == wgpu::DeviceType::Cpu;
                let teams = match options.autotune && !is_software {
                    true => Teams::Measured { kept: true },
                    false => options.gpu.teams,
                };
                let gpu_options = GpuOptions { look_ahead, teams, ..options.gpu };
                let store = Some((store, slots));
                let mut executor = GpuExecutor::new(*gpu, recording.clone(), context, each, store, gpu_options)?;
                if options.experts == ExpertBudget::All {
                    executor.make_resident()?;
                }
                Box::new(executor)
            }
            OpenedDevice::Cpu => {
                let slots = Arc::new(HostSlots::new(plan.slots, experts.slot_bytes())?);
                let store = store(slots.clone())?;
                let store = Some((store, slots));
                Box::new(
                    CpuExecutor::new(recording.clone(), context, config.experts, store).with_look_ahead(look_ahead),
                )
            }
        };
        let pace = Pace::new(options.power);
        let mut engine = Engine {
            config,
            embed,
            executor,
            state,
            recording,
            context,
            root,
            text,
            plan,
            watch: None,
            language: OnceLock::new(),
            pace,
        };
        if options.experts == ExpertBudget::Auto {
            engine.watch = engine.executor.expert_store().and_then(|store| PressureWatch::new(store, &engine.plan));
        }
        Ok(engine)
    }

    /// Keeps the expert cache within what the machine has free, when its size was left to us.
    pub(crate) fn relieve_memory(&mut self) {
        let Some(watch) = &self.watch else { return };
        if let (Some(now), Some(store)) = (self.pace.news(), self.executor.expert_store()) {
            watch.check(store, &now);
        }
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

    /// The most experts that may be in memory now; `None` when all are in memory for good.
    pub fn expert_limit(&mut self) -> Option<usize> {
        self.executor.expert_store().map(|store| store.limit())
    }

    pub(crate) fn trace_shape(&self) -> TraceShape {
        let (experts, top_k) = (self.config.experts, self.config.top_k);
        let layers = self.plan.all_slots / experts.max(1);
        TraceShape { layers, experts, top_k, slot_bytes: self.plan.slot_bytes as usize }
    }

    /// Shapes and constants of the model.
    pub fn config(&self) -> &Config {
        &self.config
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
        self.executor.device()
    }

    /// What turns requests into tokens. It may be used from other threads while the engine computes.
    ///
    /// # Errors
    /// A tokenizer or a `generation_config.json` that is missing or cannot be used.
    pub fn language(&self) -> Result<Arc<Language>, EngineError> {
        if let Some(language) = self.language.get() {
            return Ok(language.clone());
        }
        let made = Arc::new(Language::of(self)?);
        Ok(self.language.get_or_init(|| made).clone())
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, EngineError> {
        let json = self.need(&self.text.tokenizer, "tokenizer.json", "text, only token ids")?;
        let path = self.root.join("tokenizer.json");
        let config = self.text.tokenizer_config.as_deref().map(|text| (self.root.join("tokenizer_config.json"), text));
        let config = config.as_ref().map(|(path, text)| (path.as_path(), *text));
        Ok(Tokenizer::from_json_with_config(&path, json, config)?)
    }

    /// The model's chat template.
    pub fn chat_template(&self) -> Result<ChatTemplate, EngineError> {
        let need = "chat (--raw continues a text without it)";
        let source = self.need(&self.text.chat_template, "chat_template.jinja", need)?;
        Ok(ChatTemplate::new(&self.root.join("chat_template.jinja"), source)?)
    }

    /// The model's defaults for sampling and its stop ids.
    pub fn generation_config(&self) -> Result<GenerationConfig, EngineError> {
        match &self.text.generation_config {
            Some(json) => Ok(GenerationConfig::from_json(&self.root.join("generation_config.json"), json)?),
            None => Ok(GenerationConfig::default()),
        }
    }

    fn need<'a>(
        &self,
        text: &'a Option<String>,
        file: &'static str,
        need: &'static str,
    ) -> Result<&'a str, EngineError> {
        text.as_deref().ok_or_else(|| EngineError::NoTextFile { root: self.root.clone(), file, need })
    }

    /// A new timeline of tokens. An engine has one at a time: starting another ends the last.
    pub fn session(&mut self) -> Result<Session<'_>, ExecuteError> {
        Session::new(self)
    }
}
