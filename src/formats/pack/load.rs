//! The resident weights of an opened pack, as views: every name, type and shape held against the config.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};

use super::PackError;
use crate::formats::{ScaleType, WeightFormat};
use crate::model::weights::{
    AttentionWeights, DeltaNetWeights, LayerWeights, MixerWeights, SharedExpertWeights, Vector,
};
use crate::model::{Config, LayerKind, Matrix, MatrixBlock, ModelWeights};

/// Views of every resident weight in the bytes of `resident.safetensors`. `path` is for messages.
pub(super) fn load(config: &Config, path: &Path, bytes: Bytes) -> Result<ModelWeights, PackError> {
    let (header, tensors) = SafeTensors::read_metadata(&bytes)
        .map_err(|source| PackError::Safetensors { path: path.to_owned(), source })?;
    let file = Reader { path: path.to_owned(), data: bytes.slice(8 + header..), tensors };
    let hidden = config.hidden;
    let embed_tokens = file.matrix("embed_tokens", config.vocab, hidden)?;
    let lm_head = match config.tied_embeddings {
        true => embed_tokens.clone(),
        false => file.matrix("lm_head", config.vocab, hidden)?,
    };
    let layers = config.layers.iter().enumerate().map(|(n, kind)| file.layer(config, &format!("layers.{n}"), *kind));
    Ok(ModelWeights {
        embed_tokens,
        lm_head,
        norm: file.vector("norm", &[hidden])?,
        layers: layers.collect::<Result<_, _>>()?,
    })
}

struct Reader {
    path: PathBuf,
    data: Bytes,
    tensors: Metadata,
}

impl Reader {
    fn layer(&self, config: &Config, name: &str, kind: LayerKind) -> Result<LayerWeights, PackError> {
        let hidden = config.hidden;
        let matrix = |rest: &str, rows, cols| self.matrix(&format!("{name}.{rest}"), rows, cols);
        let vector = |rest: &str, shape: &[usize]| self.vector(&format!("{name}.{rest}"), shape);
        let mixer = match (kind, &config.linear) {
            (LayerKind::LinearAttention, Some(linear)) => {
                let inner = linear.value_heads * linear.value_dim;
                MixerWeights::DeltaNet(DeltaNetWeights {
                    qkv: matrix("delta_net.qkv", linear.channels(), hidden)?,
                    z: matrix("delta_net.z", inner, hidden)?,
                    b: matrix("delta_net.b", linear.value_heads, hidden)?,
                    a: matrix("delta_net.a", linear.value_heads, hidden)?,
                    conv: vector("delta_net.conv", &[linear.channels(), linear.conv_kernel])?,
                    a_log: vector("delta_net.a_log", &[linear.value_heads])?,
                    dt_bias: vector("delta_net.dt_bias", &[linear.value_heads])?,
                    norm: vector("delta_net.norm", &[linear.value_dim])?,
                    out: matrix("delta_net.out", hidden, inner)?,
                })
            }
            // the manifest was refused if it has linear attention without its shapes
            _ => {
                let (inner, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
                let gates = if config.attention_gate { 2 } else { 1 };
                MixerWeights::Attention(AttentionWeights {
                    q: matrix("attention.q", inner * gates, hidden)?,
                    k: matrix("attention.k", keys, hidden)?,
                    v: matrix("attention.v", keys, hidden)?,
                    o: matrix("attention.o", hidden, inner)?,
                    q_norm: vector("attention.q_norm", &[config.head_dim])?,
                    k_norm: vector("attention.k_norm", &[config.head_dim])?,
                })
            }
        };
        let shared = config.shared_intermediate.map(|inner| {
            Ok(SharedExpertWeights {
                gate: matrix("shared.gate", inner, hidden)?,
                up: matrix("shared.up", inner, hidden)?,
                down: matrix("shared.down", hidden, inner)?,
                scalar_gate: matrix("shared.scalar_gate", 1, hidden)?,
            })
        });
        Ok(LayerWeights {
            input_norm: vector("input_norm", &[hidden])?,
            post_norm: vector("post_norm", &[hidden])?,
            mixer,
            router: matrix("router", config.experts, hidden)?,
            shared: shared.transpose()?,
        })
    }

    fn wrong(&self, tensor: &str, expected: String, found: Option<&TensorInfo>) -> PackError {
        PackError::Tensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            expected,
            found: found.map_or("none".to_owned(), |info| format!("{:?} {:?}", info.dtype, info.shape)),
        }
    }

    fn bytes(&self, info: &TensorInfo) -> Bytes {
        // read_metadata has held the offsets against the file and the shapes
        self.data.slice(info.data_offsets.0..info.data_offsets.1)
    }

    fn vector(&self, name: &str, shape: &[usize]) -> Result<Vector, PackError> {
        match self.tensors.info(name) {
            Some(info) if info.dtype == Dtype::F32 && info.shape == shape => {
                let bytes = self.bytes(info);
                let values: Vector = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                match values.iter().find(|v| !v.is_finite()) {
                    None => Ok(values),
                    Some(value) => Err(PackError::Tensor {
                        path: self.path.clone(),
                        tensor: name.to_owned(),
                        expected: "finite numbers".to_owned(),
                        found: value.to_string(),
                    }),
                }
            }
            found => Err(self.wrong(name, format!("F32 {shape:?}"), found)),
        }
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix, PackError> {
        let weight = format!("{name}.weight");
        let info = self.tensors.info(&weight);
        let dense = |format| match info {
            Some(info) if info.shape == [rows, cols] => Ok((format, self.bytes(info), Bytes::new(), Bytes::new())),
            found => Err(self.wrong(&weight, format!("[{rows}, {cols}]"), found)),
        };
        let (format, codes, scales, biases) = match info.map(|info| info.dtype) {
            Some(Dtype::F32) => dense(WeightFormat::F32)?,
            Some(Dtype::F16) => dense(WeightFormat::F16)?,
            Some(Dtype::BF16) => dense(WeightFormat::Bf16)?,
            Some(Dtype::U32) => self.affine(name, rows, cols)?,
            _ => {
                return Err(self.wrong(&weight, format!("F32, F16, BF16 or U32, {rows} rows"), info));
            }
        };
        if !cols.is_multiple_of(format.column_multiple()) {
            let expected = format!("a multiple of {} columns as {format}", format.column_multiple());
            return Err(self.wrong(&weight, expected, info));
        }
        let blocks = vec![MatrixBlock { rows, codes, scales, biases }];
        Ok(Matrix { name: name.to_owned(), rows, cols, format, blocks })
    }

    /// Bits and group size follow from the shapes, as the columns are known.
    fn affine(&self, name: &str, rows: usize, cols: usize) -> Result<(WeightFormat, Bytes, Bytes, Bytes), PackError> {
        let tensor = |rest: &str, expected: String, good: &dyn Fn(&TensorInfo) -> bool| {
            let name = format!("{name}.{rest}");
            match self.tensors.info(&name) {
                Some(info) if info.shape.len() == 2 && info.shape[0] == rows && good(info) => Ok(info.clone()),
                found => Err(self.wrong(&name, expected, found)),
            }
        };
        let bits = |words: usize| WeightFormat::BITS.into_iter().find(|b| cols * usize::from(*b) == words * 32);
        let group = |groups: usize| WeightFormat::GROUPS.into_iter().find(|g| groups * usize::from(*g) == cols);
        let expected = format!("U32 [{rows}, {cols} * bits / 32] of 2, 3, 4, 5, 6 or 8 bits");
        let weight = tensor("weight", expected, &|info| bits(info.shape[1]).is_some())?;
        let expected = format!("BF16, F16 or F32 [{rows}, {cols} / group] of groups of 32, 64 or 128");
        let scales = tensor("scales", expected, &|info| {
            matches!(info.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) && group(info.shape[1]).is_some()
        })?;
        let expected = format!("{:?} {:?}", scales.dtype, scales.shape);
        let biases = tensor("biases", expected, &|info| (info.dtype, &info.shape) == (scales.dtype, &scales.shape))?;
        let (Some(bits), Some(group)) = (bits(weight.shape[1]), group(scales.shape[1])) else {
            unreachable!("both were found when the shapes were checked");
        };
        let scale_type = match scales.dtype {
            Dtype::BF16 => ScaleType::Bf16,
            Dtype::F16 => ScaleType::F16,
            _ => ScaleType::F32,
        };
        let format = WeightFormat::Affine { bits, group, scales: scale_type };
        Ok((format, self.bytes(&weight), self.bytes(&scales), self.bytes(&biases)))
    }
}
