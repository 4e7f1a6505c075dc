//! An opened pack as a source of weights: every name, type and shape held against what the model asks for.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};

use super::PackError;
use super::manifest::{KNOWN_FORMATS, LayerRecords};
use crate::file_error::FileError;
use crate::weights::in_memory;
use crate::weights::layout::{ExpertFile, LayerExperts, Part, Place, SlotLayout};
use crate::weights::matrix::{Matrix, MatrixBlock, Vector};
use crate::weights::source::{ExpertShape, MatrixRole, VectorRole, WeightSource};
use flashflood_formats::{Affine, Dense, MOST_STREAMS, WeightFormat};

/// Resident weights as views of the bytes of `resident.safetensors`, and where the records of experts lie.
pub(super) struct PackWeights {
    pub(super) resident: Resident,
    /// For messages about `layers`.
    pub(super) manifest: PathBuf,
    pub(super) record_align: u64,
    pub(super) layers: Vec<LayerRecords>,
    /// One for each of `layers`.
    pub(super) files: Vec<ExpertFile>,
}

/// `resident.safetensors`.
pub(super) struct Resident {
    path: PathBuf,
    data: Bytes,
    tensors: Metadata,
}

impl Resident {
    /// Reads the header of `bytes`; `path` is for messages.
    pub(super) fn open(path: &Path, bytes: Bytes) -> Result<Resident, PackError> {
        let (header, tensors) =
            SafeTensors::read_metadata(&bytes).map_err(FileError::syntax(path, "not a safetensors file"))?;
        Ok(Resident { path: path.to_owned(), data: bytes.slice(8 + header..), tensors })
    }

    fn wrong(&self, tensor: &str, expected: String, found: Option<&TensorInfo>) -> FileError {
        let found = found.map_or("none".to_owned(), |info| format!("{:?} {:?}", info.dtype, info.shape));
        FileError::new(&self.path, format!("tensor {tensor}"), expected, found)
    }

    fn bytes(&self, info: &TensorInfo) -> Bytes {
        // read_metadata has held the offsets against the file and the shapes
        self.data.slice(info.data_offsets.0..info.data_offsets.1)
    }

    fn vector(&self, name: &str, shape: &[usize]) -> Result<Vector, FileError> {
        match self.tensors.info(name) {
            Some(info) if info.dtype == Dtype::F32 && info.shape == shape => {
                let bytes = in_memory(&self.bytes(info))?;
                let values: Vector = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                match values.iter().find(|v| !v.is_finite()) {
                    None => Ok(values),
                    Some(value) => Err(FileError::new(&self.path, format!("tensor {name}"), "finite numbers", value)),
                }
            }
            found => Err(self.wrong(name, format!("F32 {shape:?}"), found)),
        }
    }

    /// The matrix `name`, whose streams are held against what its format says of them.
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix, FileError> {
        let format = match self.said(name)? {
            Some(format) => format,
            None => self.seen(name, rows, cols)?,
        };
        let weight = format!("{name}.weight");
        if !cols.is_multiple_of(format.column_multiple()) {
            let expected = format!("a multiple of {} columns as {format}", format.column_multiple());
            return Err(self.wrong(&weight, expected, self.tensors.info(&weight)));
        }
        let mut streams: [Bytes; MOST_STREAMS] = Default::default();
        let bytes = format.stream_bytes(cols).into_iter().zip(format.stream_dtypes());
        for ((stream, part), (bytes, dtype)) in streams.iter_mut().zip(format.stream_names()).zip(bytes) {
            let name = format!("{name}.{part}");
            let shape = [rows, bytes * 8 / dtype.bitsize()];
            match self.tensors.info(&name) {
                Some(info) if info.dtype == dtype && info.shape == shape => *stream = self.bytes(info),
                Some(info) if info.dtype == dtype => return Err(self.wrong(&name, format!("{shape:?}"), Some(info))),
                found => return Err(self.wrong(&name, format!("{dtype:?} {shape:?}, a stream of {format}"), found)),
            }
        }
        Ok(Matrix { name: name.to_owned(), rows, cols, format, blocks: vec![MatrixBlock { rows, streams }] })
    }

    /// The format that the file says `name` has.
    fn said(&self, name: &str) -> Result<Option<WeightFormat>, FileError> {
        let Some(text) = self.tensors.metadata().as_ref().and_then(|metadata| metadata.get(name)) else {
            return Ok(None);
        };
        let place = || format!("format of {name}");
        let format: WeightFormat = serde_json::from_str(text).map_err(|error| {
            FileError::new(&self.path, place(), "a format that this program knows", error)
                .hint("a newer flashflood may")
        })?;
        match format {
            format if format.is_known() => Ok(Some(format)),
            format => Err(FileError::new(&self.path, place(), KNOWN_FORMATS, format!("{format:?}"))),
        }
    }

    /// The format that follows from the types and shapes of the tensors of `name`: packs from before files said it.
    fn seen(&self, name: &str, rows: usize, cols: usize) -> Result<WeightFormat, FileError> {
        let weight = format!("{name}.weight");
        match self.tensors.info(&weight) {
            Some(info) if info.dtype == Dtype::U32 => self.affine(name, rows, cols),
            Some(info) => match Dense::of(info.dtype) {
                Some(dense) if info.shape == [rows, cols] => Ok(WeightFormat::Dense(dense)),
                Some(_) => Err(self.wrong(&weight, format!("[{rows}, {cols}]"), Some(info))),
                None => Err(self.wrong(&weight, format!("F32, F16, BF16 or U32, {rows} rows"), Some(info))),
            },
            None => Err(self.wrong(&weight, format!("F32, F16, BF16 or U32, {rows} rows"), None)),
        }
    }

    fn affine(&self, name: &str, rows: usize, cols: usize) -> Result<WeightFormat, FileError> {
        let tensor = |rest: &str, expected: String, good: &dyn Fn(&TensorInfo) -> bool| {
            let name = format!("{name}.{rest}");
            match self.tensors.info(&name) {
                Some(info) if info.shape.len() == 2 && info.shape[0] == rows && good(info) => Ok(info.clone()),
                found => Err(self.wrong(&name, expected, found)),
            }
        };
        let bits = |words: usize| Affine::BITS.into_iter().find(|b| cols * usize::from(*b) == words * 32);
        let group = |groups: usize| Affine::GROUPS.into_iter().find(|g| groups * usize::from(*g) == cols);
        let expected = format!("U32 [{rows}, {cols} * bits / 32] of 2, 3, 4, 5, 6 or 8 bits");
        let weight = tensor("weight", expected, &|info| bits(info.shape[1]).is_some())?;
        let expected = format!("BF16, F16 or F32 [{rows}, {cols} / group] of groups of 32, 64 or 128");
        let scales =
            tensor("scales", expected, &|info| Dense::of(info.dtype).is_some() && group(info.shape[1]).is_some())?;
        let expected = format!("{:?} {:?}", scales.dtype, scales.shape);
        tensor("biases", expected, &|info| (info.dtype, &info.shape) == (scales.dtype, &scales.shape))?;
        match (bits(weight.shape[1]), group(scales.shape[1]), Dense::of(scales.dtype)) {
            (Some(bits), Some(group), Some(dense)) => {
                Ok(WeightFormat::Affine(Affine { bits, group, scales: dense.scale_type() }))
            }
            _ => unreachable!("all were found when the shapes were checked"),
        }
    }
}

impl WeightSource for PackWeights {
    fn matrix(&self, name: &str, rows: usize, cols: usize, _: MatrixRole) -> Result<Matrix, FileError> {
        self.resident.matrix(name, rows, cols)
    }

    fn vector(&self, name: &str, shape: &[usize], _: VectorRole) -> Result<Vector, FileError> {
        self.resident.vector(name, shape)
    }

    fn has(&self, name: &str) -> bool {
        self.resident.tensors.info(&format!("{name}.weight")).is_some()
    }

    fn experts(&self, layer: usize, shape: &ExpertShape) -> Result<LayerExperts, FileError> {
        let found = self.layers.iter().position(|records| records.layer == layer);
        let Some(index) = found else {
            let expected = format!("records of layer {layer}, which has experts");
            return Err(FileError::missing(&self.manifest, "`layers`", expected));
        };
        let records = &self.layers[index];
        let wrong = |field: &str, expected: String, found: String| {
            Err(FileError::new(&self.manifest, format!("layers[{index}].{field}"), expected, found))
        };
        let Some(formats) = records.formats() else {
            return wrong("gate_up", "a format".to_owned(), "formats that contradict each other".to_owned());
        };
        for ((field, format), cols) in formats.into_iter().zip([shape.hidden, shape.hidden, shape.width]) {
            if !cols.is_multiple_of(format.column_multiple()) {
                return wrong(field, format!("a format whose groups divide {cols} columns"), format.to_string());
            }
        }
        let slot = SlotLayout::new(shape.hidden, shape.width, formats.map(|(_, format)| format));
        if records.bytes != slot.bytes {
            return wrong("bytes", slot.bytes.to_string(), records.bytes.to_string());
        }
        let stride = super::manifest::stride(slot.bytes, self.record_align);
        if records.stride != stride {
            return wrong("stride", stride.to_string(), records.stride.to_string());
        }
        if records.xxh3.len() != shape.experts {
            let expected = format!("{} checksums, one per expert", shape.experts);
            return wrong("xxh3", expected, records.xxh3.len().to_string());
        }
        #[expect(clippy::cast_possible_truncation, reason = "a model has far fewer than 2^32 layers")]
        let place = Place::Strided { file: index as u32, base: 0, stride };
        Ok(LayerExperts {
            experts: shape.experts,
            top_k: shape.top_k,
            slot,
            parts: vec![Part { place, len: slot.bytes, at: 0 }],
            rewritten: Vec::new(),
            checksums: Some(records.xxh3.iter().map(|sum| sum.0).collect()),
        })
    }

    fn files(&self) -> Vec<ExpertFile> {
        self.files.clone()
    }
}
