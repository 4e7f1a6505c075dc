//! What `targets/apple/msl/run.cpp` is to do: buffers, what is written and read, dispatches. And kernels as it compiles
//! them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use crate::compute::shaders;
use xxhash_rust::xxh3::xxh3_64;

use super::lower;

/// Commands for the runner, in 32-bit words.
#[derive(Default)]
pub(crate) struct Script {
    bytes: Vec<u8>,
    buffers: u32,
    /// Workgroups of each kernel.
    workgroups: BTreeMap<u32, u64>,
}

/// A range of a buffer of a script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) buffer: u32,
    pub(crate) size: usize,
}

impl Script {
    fn words(&mut self, words: &[u32]) {
        self.bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    /// A new buffer, full of zeros.
    pub(crate) fn buffer(&mut self, size: usize) -> Range {
        self.words(&[1, size as u32]);
        self.buffers += 1;
        Range { buffer: self.buffers - 1, size }
    }

    pub(crate) fn write(&mut self, to: Range, offset: usize, bytes: &[u8]) {
        self.words(&[2, to.buffer, offset as u32, bytes.len() as u32]);
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn read(&mut self, from: Range, bytes: usize) {
        self.words(&[3, from.buffer, 0, bytes as u32]);
    }

    pub(crate) fn dispatch(&mut self, kernel: u32, grid: [u32; 3], immediates: &[u8], bindings: &[Range]) {
        let [x, y, z] = grid;
        *self.workgroups.entry(kernel).or_default() += u64::from(x) * u64::from(y) * u64::from(z);
        self.words(&[4, kernel, x, y, z, immediates.len() as u32 / 4, bindings.len() as u32]);
        self.bytes.extend_from_slice(immediates);
        for binding in bindings {
            self.words(&[binding.buffer, 0, binding.size as u32]);
        }
    }

    /// Writes it to a file, and beside it which kernels it runs in how many workgroups.
    pub(crate) fn save(mut self, to: &Path) {
        self.words(&[0]);
        std::fs::write(to, &self.bytes).unwrap();
        let lines = self.workgroups.iter().map(|(kernel, count)| format!("{kernel} {count}\n"));
        std::fs::write(to.with_extension("kernels"), lines.collect::<String>()).unwrap();
    }
}

/// A shader with its constants.
type Pipeline = (&'static str, Vec<(&'static str, u64)>);

/// The number of a kernel, whose C++ is then in `folder` as `SHADER.NUMBER.cpp`.
pub(crate) fn kernel(folder: &Path, shader: &'static str, constants: &[(&'static str, f64)]) -> u32 {
    static NUMBERS: OnceLock<Mutex<HashMap<Pipeline, u32>>> = OnceLock::new();
    let mut numbers = NUMBERS.get_or_init(Mutex::default).lock().unwrap();
    let key = (shader, constants.iter().map(|(name, value)| (*name, value.to_bits())).collect());
    *numbers.entry(key).or_insert_with(|| {
        let (source, entry) = shaders::source(shader).unwrap();
        let constants = constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let (module, info) = lower::module(shader, &source, &constants, entry);
        let threads: u32 = module.entry_points[0].workgroup_size.iter().product();
        let msl = lower::msl(shader, entry, &module, &info);
        let number = xxh3_64(format!("{shader} {threads} {msl}").as_bytes()) as u32;
        std::fs::write(folder.join(format!("{shader}.{number}.cpp")), unit(shader, number, threads, &msl)).unwrap();
        number
    })
}

/// The C++ around the MSL of a kernel: a function that calls it as one thread, and its place in the runner's list.
fn unit(shader: &str, number: u32, threads: u32, msl: &str) -> String {
    let (_, signature) = msl.split_once("kernel void ").unwrap();
    let (entry, signature) = signature.split_once("(\n").unwrap();
    let (signature, _) = signature.split_once("\n) {").unwrap();
    let (mut memory, mut arguments) = (String::new(), Vec::new());
    for parameter in signature.lines() {
        let parameter = parameter.trim_start_matches([' ', ',']);
        let words: Vec<&str> = parameter.split_whitespace().collect();
        let attribute = parameter.split_once("[[").map_or("", |(_, rest)| rest.trim_end_matches("]]"));
        let buffer = attribute.strip_prefix("buffer(").map(|rest| rest.trim_end_matches(')'));
        arguments.push(match (attribute, buffer) {
            // reading the size of a binding would need it
            (_, Some(buffer)) => {
                format!("*reinterpret_cast<{} *>(at.buffers[{buffer}])", words[1].trim_end_matches('&'))
            }
            ("threadgroup_position_in_grid", _) => "{at.place[0], at.place[1], at.place[2]}".to_owned(),
            ("thread_index_in_threadgroup", _) => "thread_".to_owned(),
            // all workgroups have one dimension
            ("thread_position_in_grid", _) => {
                format!("{{at.place[0] * {threads} + thread_, at.place[1], at.place[2]}}")
            }
            ("", _) if words[0] == "threadgroup" => {
                let (of, name) = (words[1].trim_end_matches('&'), words[2]);
                writeln!(memory, "    {of} {name};").unwrap();
                format!("memory.{name}")
            }
            _ => panic!("{shader}: the runner knows no parameter `{parameter}`"),
        });
    }
    assert!(!msl.contains("_buffer_sizes.size"), "{shader}: the runner knows no sizes of bindings");
    let arguments = arguments.join(", ");
    format!(
        "// {shader}
namespace kernel_{number} {{
{msl}
struct MemoryOfWorkgroup {{
{memory}}};
void run(const runner::Workgroup &at, uint32_t thread_) {{
    [[maybe_unused]] auto &memory = *reinterpret_cast<MemoryOfWorkgroup *>(at.memory);
    {entry}({arguments});
}}
const runner::Kernel listed({number}u, \"{shader}\", run, sizeof(MemoryOfWorkgroup), {threads});
}} // namespace kernel_{number}
"
    )
}
