//! Writes GGUF files: for tests only.

use half::{bf16, f16};

/// A value of the metadata.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    U64(u64),
    I32s(Vec<i32>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl Value {
    fn kind(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::U16(_) => 2,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Text(_) => 8,
            Value::I32s(_) | Value::Bools(_) | Value::Texts(_) => 9,
            Value::U64(_) => 10,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, kind: u32, count: usize| {
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Value::U8(value) => out.push(*value),
            Value::U16(value) => out.extend(value.to_le_bytes()),
            Value::U32(value) => out.extend(value.to_le_bytes()),
            Value::I32(value) => out.extend(value.to_le_bytes()),
            Value::F32(value) => out.extend(value.to_le_bytes()),
            Value::U64(value) => out.extend(value.to_le_bytes()),
            Value::Bool(value) => out.push(u8::from(*value)),
            Value::Text(text) => write_text(text, out),
            Value::I32s(values) => {
                array(out, 5, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
            Value::Bools(values) => {
                array(out, 7, values.len());
                out.extend(values.iter().map(|value| u8::from(*value)));
            }
            Value::Texts(values) => {
                array(out, 8, values.len());
                values.iter().for_each(|value| write_text(value, out));
            }
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// How the numbers of a tensor are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Numbers {
    F32,
    F16,
    Bf16,
    /// 32 numbers of 8 bits with a scale.
    Q8,
}

impl Numbers {
    fn bytes(self, values: &[f32]) -> (u32, Vec<u8>) {
        match self {
            Numbers::F32 => (0, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Numbers::F16 => (1, values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()),
            Numbers::Q8 => (8, values.chunks(32).flat_map(q8_block).collect()),
            Numbers::Bf16 => (30, values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()),
        }
    }
}

fn q8_block(values: &[f32]) -> Vec<u8> {
    let scale = values.iter().fold(0.0f32, |most, value| most.max(value.abs())) / 127.0;
    let code = |value: &f32| if scale == 0.0 { 0 } else { (value / scale).round() as i8 };
    let codes = values.iter().map(|value| code(value).cast_unsigned());
    f16::from_f32(scale).to_le_bytes().into_iter().chain(codes).collect()
}

/// A tensor on its way into a file.
#[derive(Clone, Debug)]
pub(crate) struct RawTensor {
    pub(crate) name: String,
    /// Innermost dimension first, as files have it.
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
}

/// A GGUF file before it is written.
#[derive(Clone, Debug)]
pub(crate) struct GgufFile {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    pub(crate) keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<RawTensor>,
}

impl GgufFile {
    pub(crate) fn new() -> GgufFile {
        GgufFile { version: 3, alignment: 32, keys: Vec::new(), tensors: Vec::new() }
    }

    /// Puts `value` under `key`, in the place of what was there.
    pub(crate) fn put(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.keys.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.keys.retain(|(known, _)| known != key);
    }

    /// Adds a tensor whose `shape` is outermost dimension first.
    pub(crate) fn add(&mut self, name: &str, shape: &[usize], values: &[f32], numbers: Numbers) {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        let (kind, bytes) = numbers.bytes(values);
        let dims = shape.iter().rev().map(|dim| *dim as u64).collect();
        self.tensors.push(RawTensor { name: name.to_owned(), dims, kind, bytes });
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut RawTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            write_text(key, &mut out);
            out.extend(value.kind().to_le_bytes());
            value.write(&mut out);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            write_text(&tensor.name, &mut out);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset = (offset + tensor.bytes.len()).next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.bytes);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out
    }

    /// The same as `count` files, each with some of the tensors: the first has the metadata, and no tensors, as
    /// `llama-gguf-split --no-tensor-first-split` makes it.
    pub(crate) fn split(&self, count: usize) -> Vec<GgufFile> {
        let each = self.tensors.len().div_ceil(count - 1);
        let mut tensors = self.tensors.chunks(each);
        let part = |n: usize| {
            let mut part = GgufFile { tensors: Vec::new(), ..self.clone() };
            if n > 0 {
                part.keys.clear();
                part.tensors = tensors.next().unwrap_or_default().to_vec();
            }
            part.put("split.no", Value::U16(n as u16));
            part.put("split.count", Value::U16(count as u16));
            part.put("split.tensors.count", Value::I32(self.tensors.len() as i32));
            part
        };
        (0..count).map(part).collect()
    }
}
