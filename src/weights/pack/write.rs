//! Making a pack: resident weights, then layer by layer, then the manifest.
//!
//! Memory stays under [`EXPERTS_IN_FLIGHT`] and a little, whatever the model: a layer's experts are converted in
//! batches, each expert read, converted and written by one task that shares its rows with idle threads.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use flashflood_backends::positioned::write_all_at;
use rayon::prelude::*;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::calibrated::{self, LayerMetrics, Tally};
use super::convert::{BadRow, convert_slot, target};
use super::manifest::{self, Checksum, LayerRecords, Manifest, PackOptions, SourceDescription};
use super::resident::ResidentPlan;
use super::resume::{Finished, part, publish, replace};
use super::{ADDITIONAL_TEMPLATES, COPIED, FileSum, Observer, PackError, Progress, RESIDENT, layer_file};
use crate::file_error::FileError;
use crate::weights::calibration::Calibration;
use crate::weights::expert_image::ExpertImages;
use crate::weights::layout::{ExpertLayout, SlotLayout};
use crate::weights::listing::{Listed, Listing};
use crate::weights::matrix::Matrix;
use crate::weights::source::MatrixRole;
use flashflood_formats::{Affine, Number, WeightFormat};

/// Bytes of experts in memory at a time: as stored by the source and as packed.
const EXPERTS_IN_FLIGHT: usize = 512 << 20;
/// Records of this size and more are aligned for reads that bypass the page cache on 16 KiB pages.
const LARGE_RECORD: usize = 1 << 20;

/// What [`write_pack`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackSummary {
    /// Layers that this run wrote.
    pub layers_written: usize,
    /// Layers that an earlier run had finished.
    pub layers_kept: usize,
    /// Length of the resident file.
    pub resident_bytes: u64,
    /// Length of the layers' files.
    pub expert_bytes: u64,
}

/// What a pack is made of.
#[derive(Clone, Copy)]
pub(crate) struct PackSource<'a> {
    /// Every weight.
    pub weights: &'a Listing,
    /// By MoE layer, which layer of the model it is.
    pub moe_layers: &'a [usize],
    /// The text of the model's `config.json`.
    pub config: &'a str,
    /// Text files (relative path, contents) that the source has inside its weights and the pack gets beside them.
    pub texts: &'a [(PathBuf, &'a str)],
    /// What experts are quantised by, beside their weights.
    pub calibration: Option<&'a Calibration>,
}

/// Makes a pack of `source` in the folder `out`, or goes on with one that an earlier run left unfinished. Tokenizer
/// and config files are copied from `copy_from`, where there are any.
///
/// A file of the pack is there under its name or not at all; `manifest.json` comes last.
///
/// # Errors
/// Options that there is no format for; a folder that holds something else; whatever the system refuses, a full disk
/// among it; and a NaN or infinite weight in the source, by layer, expert, matrix and row. The layers that are finished
/// by then are kept for the next run.
pub(crate) fn write_pack(
    source: PackSource<'_>,
    copy_from: Option<&Path>,
    out: &Path,
    options: &PackOptions,
    observer: &Observer<'_>,
) -> Result<PackSummary, PackError> {
    options.check()?;
    let job = Job::new(source, *options, observer)?;
    let plan = ResidentPlan::new(source.weights, |matrix| resident_format(matrix, options));
    let files: BTreeMap<usize, (usize, u64)> =
        job.layers.iter().map(|l| (l.layer, (l.experts, l.file_bytes()))).collect();
    let resident_bytes = plan.bytes();
    let expert_bytes = files.values().map(|(_, bytes)| bytes).sum::<u64>();
    observer(Progress::Total { bytes: resident_bytes + expert_bytes });
    job.warn();

    let mut finished = Finished::find(out, &job.description, &files)?;
    let kept =
        finished.resident.map_or(0, |sum| sum.bytes) + finished.layers.keys().map(|layer| files[layer].1).sum::<u64>();
    let layers_kept = finished.layers.len();
    if kept > 0 {
        observer(Progress::Resumed { layers: layers_kept, bytes: kept });
    }
    let summary = |layers_written| PackSummary { layers_written, layers_kept, resident_bytes, expert_bytes };
    let complete = finished.resident.is_some() && layers_kept == job.layers.len();
    if complete && super::is_pack(out) {
        return Ok(summary(0));
    }

    let mut needed = resident_bytes + expert_bytes - kept;
    finished.save(out, needed)?;
    let experts = out.join("experts");
    fs::create_dir_all(&experts).map_err(FileError::io("create", &experts))?;
    let mut beside = copy_files(copy_from, out, needed)?;
    for (name, text) in source.texts {
        let path = out.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(FileError::io("create", folder))?;
        }
        replace(&path, text.as_bytes(), needed)?;
        beside.insert(key_of(name), FileSum::of(text.as_bytes()));
    }
    let resident = match finished.resident {
        Some(sum) => sum,
        None => {
            let path = out.join(RESIDENT);
            let sum = plan.write(&part(&path), needed, observer).inspect_err(|_| remove_part(&path))?;
            publish(&path)?;
            needed -= resident_bytes;
            finished.resident = Some(sum);
            finished.save(out, needed)?;
            sum
        }
    };
    for (index, plan) in job.layers.iter().enumerate() {
        if finished.layers.contains_key(&plan.layer) {
            continue;
        }
        let path = out.join(layer_file(plan.layer));
        let sums = job.write_layer(index, &part(&path), needed).inspect_err(|_| remove_part(&path))?;
        publish(&path)?;
        needed -= plan.file_bytes();
        finished.layers.insert(plan.layer, sums);
        finished.save(out, needed)?;
    }
    let part = (layers_kept > 0).then(|| job.layers.len() - layers_kept);
    job.tally.warnings(part).iter().for_each(|text| observer(Progress::Warning(text)));
    let Job { config, description, record_align, layers, .. } = job;
    let written = layers.len() - layers_kept;
    // one entry per layer, in order, as the map is sorted and complete
    let layers = layers.into_iter().zip(finished.layers.into_values());
    let manifest = Manifest {
        format: manifest::FORMAT.to_owned(),
        version: manifest::VERSION,
        checksum: None,
        config,
        source: description,
        record_align,
        resident,
        files: Some(beside),
        layers: layers.map(|(plan, xxh3)| plan.records(xxh3)).collect(),
    };
    Finished::complete(out, &manifest)?;
    Ok(summary(written))
}

/// A file without its name is of no use to the next run, and may be what fills the disk.
fn remove_part(path: &Path) {
    let _ = fs::remove_file(part(path));
}

/// Copies what stands beside the weights; gives the sum of each file by its name.
fn copy_files(from: Option<&Path>, out: &Path, needed: u64) -> Result<BTreeMap<String, FileSum>, PackError> {
    let mut copied = BTreeMap::new();
    let Some(from) = from else { return Ok(copied) };
    let mut names: Vec<PathBuf> = COPIED.iter().map(PathBuf::from).collect();
    if let Ok(templates) = fs::read_dir(from.join(ADDITIONAL_TEMPLATES)) {
        fs::create_dir_all(out.join(ADDITIONAL_TEMPLATES)).map_err(FileError::io("create", out))?;
        names.extend(templates.flatten().map(|entry| Path::new(ADDITIONAL_TEMPLATES).join(entry.file_name())));
    }
    for name in names {
        let path = from.join(&name);
        match fs::read(&path) {
            Ok(bytes) => {
                replace(&out.join(&name), &bytes, needed)?;
                copied.insert(key_of(&name), FileSum::of(&bytes));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(FileError::io("read", &path)(source).into()),
        }
    }
    Ok(copied)
}

/// The name of a file in the folder, the same on every system.
fn key_of(name: &Path) -> String {
    let parts: Vec<_> = name.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// How a resident matrix is stored that is not among those that stay as they are.
fn resident_format(matrix: &Matrix, options: &PackOptions) -> WeightFormat {
    match matrix.format {
        // more bits than the source has would be more bytes and no better
        WeightFormat::Affine(Affine { bits, .. }) if bits <= options.resident_bits => matrix.format,
        stored => target(stored, matrix.cols, options.resident_bits, options.group),
    }
}

/// The records of a layer, before there are checksums.
struct LayerPlan {
    /// Of the model.
    layer: usize,
    experts: usize,
    slot: SlotLayout,
    stride: u64,
}

impl LayerPlan {
    fn file_bytes(&self) -> u64 {
        self.stride * self.experts as u64
    }

    fn records(self, xxh3: Vec<Checksum>) -> LayerRecords {
        LayerRecords::new(self.layer, &self.slot, self.stride, xxh3)
    }
}

struct Job<'a> {
    experts: &'a ExpertLayout,
    config: serde_json::Value,
    description: SourceDescription,
    record_align: u64,
    layers: Vec<LayerPlan>,
    calibration: Option<&'a Calibration>,
    /// What became of the experts by the calibration.
    tally: Tally,
    observer: &'a Observer<'a>,
}

impl<'a> Job<'a> {
    fn new(source: PackSource<'a>, options: PackOptions, observer: &'a Observer<'a>) -> Result<Self, PackError> {
        let experts = &source.weights.experts;
        let slots: Vec<SlotLayout> = experts
            .layers
            .iter()
            .map(|layer| {
                let SlotLayout { gate, up, down, .. } = &layer.slot;
                let all = [(gate, options.bits), (up, options.bits), (down, options.down())];
                let formats = all.map(|(from, bits)| target(from.format, from.cols, bits, options.group));
                SlotLayout::new(gate.cols, down.cols, formats)
            })
            .collect();
        let largest = slots.iter().map(|slot| slot.bytes).max().unwrap_or(0);
        let record_align = if largest >= LARGE_RECORD { 16384 } else { 4096 };
        let layers = slots.into_iter().zip(&experts.layers).zip(source.moe_layers);
        let layers = layers.map(|((slot, from), &layer)| LayerPlan {
            layer,
            experts: from.experts,
            slot,
            stride: manifest::stride(slot.bytes, record_align),
        });
        let layers = layers.collect();
        let fingerprint = fingerprint(&source);
        if let Some(calibration) = source.calibration {
            calibration.check(fingerprint, source.moe_layers)?;
            refuse_few_bits(experts)?;
        }
        let description = SourceDescription {
            experts: stored_formats(experts).join(", "),
            options,
            fingerprint,
            calibration: source.calibration.map(Calibration::checksum),
        };
        let config = serde_json::from_str(source.config)
            .map_err(FileError::syntax(Path::new("config.json"), "not valid JSON"))?;
        let (calibration, tally) = (source.calibration, Tally::default());
        Ok(Job { experts, config, description, record_align, layers, calibration, tally, observer })
    }

    /// Tells what costs quality, or bytes for nothing.
    fn warn(&self) {
        let options = &self.description.options;
        for (name, bits, which) in [("gate and up", options.bits, 0..2), ("down", options.down(), 2..3)] {
            let all = self.experts.layers.iter().flat_map(|layer| layer.slot.projections()[which.clone()].to_vec());
            let mut stored = all.filter_map(|(_, place)| match place.format {
                WeightFormat::Affine(affine) => Some(affine.bits),
                // blocks stay as they are
                WeightFormat::Block(_) | WeightFormat::Scaled(_) | WeightFormat::Dense(_) => None,
            });
            let Some(stored) = stored.find(|stored| *stored != bits) else { continue };
            let why = match bits {
                0 => continue,
                _ if bits > stored => "the pack is larger than the source and no better",
                2 | 3 => "errors add up; make low-bit packs from BF16",
                _ => continue,
            };
            let text = format!("{name} projections go from {stored} to {bits} bits: {why}");
            (self.observer)(Progress::Warning(&text));
        }
    }

    /// Writes and syncs the file of MoE layer `n`; gives the checksum of each record.
    fn write_layer(&self, n: usize, path: &Path, needed: u64) -> Result<Vec<Checksum>, PackError> {
        let from = &self.experts.layers[n].slot;
        let LayerPlan { layer, experts, slot, stride } = &self.layers[n];
        let images = ExpertImages::open(self.experts, n, *layer)?;
        let metrics = match self.calibration {
            Some(calibration) => Some(LayerMetrics::new(calibration.layer(n, &self.experts.layers[n])?)),
            None => None,
        };
        if metrics.as_ref().is_some_and(LayerMetrics::is_without_input) {
            self.tally.add_without_input(*layer);
        }
        let file = File::create(path).map_err(PackError::write(path, needed))?;
        let threads = rayon::current_num_threads();
        let in_flight = (EXPERTS_IN_FLIGHT / (from.bytes + *stride as usize)).clamp(1, 4 * threads);
        let one = |expert: usize| {
            let mut image = vec![0; from.bytes];
            images.read(expert, &mut image)?;
            let mut record = vec![0; *stride as usize];
            let bad = |(matrix, bad): (&'static str, BadRow)| PackError::ExpertWeight {
                layer: *layer,
                expert,
                matrix,
                row: bad.row,
                source: bad.source,
            };
            match &metrics {
                None => convert_slot(from, &image, slot, &mut record).map_err(bad)?,
                Some(metrics) => {
                    let metrics = metrics.of(expert);
                    let done = calibrated::convert_slot(from, &image, slot, &mut record, &metrics).map_err(bad)?;
                    self.tally.add(*layer, expert, metrics.tokens_per_input, done);
                }
            }
            write_all_at(&file, &record, expert as u64 * stride).map_err(PackError::write(path, needed))?;
            (self.observer)(Progress::Advanced { bytes: *stride });
            Ok(Checksum(xxh3_64(&record[..slot.bytes])))
        };
        let mut sums = Vec::with_capacity(*experts);
        for first in (0..*experts).step_by(in_flight) {
            let last = (first + in_flight).min(*experts);
            let batch: Result<Vec<Checksum>, PackError> = (first..last).into_par_iter().map(one).collect();
            sums.extend(batch?);
        }
        file.sync_all().map_err(PackError::write(path, needed))?;
        Ok(sums)
    }
}

/// Experts that are quantised already: their errors would be taken for what the model means.
fn refuse_few_bits(experts: &ExpertLayout) -> Result<(), PackError> {
    let is_few = |format: WeightFormat| match format {
        WeightFormat::Affine(affine) => affine.bits < 8,
        WeightFormat::Block(_) => true,
        WeightFormat::Scaled(scaled) => scaled.number == Number::E2m1,
        WeightFormat::Dense(_) => false,
    };
    let mut all = experts.layers.iter().flat_map(|layer| layer.slot.matrices());
    match all.find(|(_, place)| is_few(place.format)) {
        Some((_, place)) => Err(PackError::QuantisedSource { found: place.format.to_string() }),
        None => Ok(()),
    }
}

/// The formats of the experts, each once.
fn stored_formats(experts: &ExpertLayout) -> Vec<String> {
    let mut formats: Vec<String> = Vec::new();
    for layer in &experts.layers {
        for (_, place) in layer.slot.matrices() {
            let format = place.format.to_string();
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
    }
    formats
}

/// Tells models of one shape apart without reading them whole: the config, vectors, and the first bytes of the embedding
/// and of routers.
pub(crate) fn fingerprint(source: &PackSource<'_>) -> Checksum {
    const SAMPLE: usize = 64 << 10;
    let mut sum = Xxh3::new();
    sum.update(source.config.as_bytes());
    for layer in &source.weights.experts.layers {
        for (_, place) in layer.slot.matrices() {
            sum.update(place.format.to_string().as_bytes());
            place.streams.iter().for_each(|at| sum.update(&(*at as u64).to_le_bytes()));
        }
    }
    for listed in &source.weights.resident {
        match listed {
            Listed::Vector { values, .. } => values.iter().for_each(|v| sum.update(&v.to_le_bytes())),
            Listed::Matrix { role: MatrixRole::Embedding | MatrixRole::Router, matrix, .. } => {
                for block in matrix.blocks.iter().take(1) {
                    let codes = &block.streams[0];
                    sum.update(&codes[..codes.len().min(SAMPLE)]);
                }
            }
            Listed::Matrix { .. } => {}
        }
    }
    Checksum(sum.digest())
}
