//! Products of the CPU beside what it reads: `cargo bench -p flashflood-formats --bench cpu`. To run it elsewhere:
//! `cargo bench -p flashflood-formats --bench cpu --no-run`, and the program that it names, which needs nothing else.
//!
//! ```text
//! cpu [--threads N] [--tokens 1,128] [--activations int8|f32] [--shape 2048x2048] [--bytes 512] [--rounds 5] [FORMAT...]
//! ```
//!
//! For each format and number of tokens: GMAC/s, GB/s of weights, and their share of what as many threads read of memory
//! that is only read, measured before each. The median of rounds; with one thread seconds are those of its processor (Linux),
//! so that others on the machine do not count. Weights are MB as given, so that caches do not help, in matrices of that
//! shape. Names of formats are their kernels' suffixes (`q4`, `iq2_xxs`, `fp4`); without one all are measured.
//!
//! Rows are those of `benches/results/README.md`; the table for people goes to stderr.
#![allow(clippy::unwrap_used, reason = "a bench")]

#[path = "../rows/line.rs"]
mod line;

use std::hint::black_box;
use std::time::Instant;

use flashflood_formats::{Affine, Block, Int8Rows, ScaleType, Scaled, TokenRows, WeightFormat, WeightRows};
use flashflood_formats::{pack_row, product};
use flashflood_vectors::Instructions;
use line::{Row, Rows};
use rayon::prelude::*;

/// Seconds of a round: the system counts those of a processor by ticks of some ms.
const ROUND: f64 = 0.25;

/// What was asked for.
struct Options {
    threads: usize,
    tokens: Vec<usize>,
    int8: bool,
    rows: usize,
    cols: usize,
    megabytes: usize,
    rounds: usize,
    formats: Vec<String>,
}

fn main() {
    let options = Options::of(std::env::args().skip(1).filter(|argument| argument != "--bench"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build().unwrap();
    let machine = format!("# {}, {}, {} threads of {}", processor(), Instructions::best(), options.threads, cores());
    println!("{machine}");
    eprintln!("{machine}\n");
    eprintln!("| format | bits | activations | tokens | GMAC/s | GB/s | read GB/s | of it |");
    eprintln!("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |");
    let rows = Rows::new("cpu -p flashflood-formats");
    pool.install(|| {
        let stream = vec![1u64; options.megabytes << 17];
        for format in formats().filter(|format| options.wants(*format)) {
            options.measure(format, &stream, &rows);
        }
    });
}

impl Options {
    fn of(mut arguments: impl Iterator<Item = String>) -> Options {
        let mut options = Options {
            threads: 1,
            tokens: vec![1, 128],
            int8: true,
            rows: 2048,
            cols: 2048,
            megabytes: 512,
            rounds: 5,
            formats: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} wants a value"));
            match argument.as_str() {
                "--threads" => options.threads = value().parse().unwrap(),
                "--tokens" => options.tokens = value().split(',').map(|n| n.parse().unwrap()).collect(),
                "--activations" => options.int8 = value() == "int8",
                "--bytes" => options.megabytes = value().parse().unwrap(),
                "--rounds" => options.rounds = value().parse().unwrap(),
                "--shape" => {
                    let shape = value();
                    let (rows, cols) = shape.split_once('x').expect("--shape ROWSxCOLS");
                    (options.rows, options.cols) = (rows.parse().unwrap(), cols.parse().unwrap());
                }
                name => options.formats.push(name.to_owned()),
            }
        }
        options
    }

    fn wants(&self, format: WeightFormat) -> bool {
        self.formats.is_empty() || self.formats.iter().any(|name| name == format.suffix())
    }

    /// All figures of a format.
    fn measure(&self, format: WeightFormat, stream: &[u64], lines: &Rows) {
        let Options { rows, cols, .. } = *self;
        let bytes = format.matrix_bytes(rows, cols);
        let count = ((self.megabytes << 20) / bytes).max(1);
        let streams = format.random(rows * count, cols, 1.0, 1);
        let of_matrix = |i: usize| WeightRows {
            format,
            cols,
            streams: std::array::from_fn(|s| {
                let each = format.stream_bytes(cols)[s] * rows;
                &streams[s][i * each..][..each]
            }),
        };
        let interleave = format.interleave().filter(|_| self.int8);
        for &tokens in &self.tokens {
            let x: Vec<Vec<f32>> = (0..tokens).map(|token| activations(token, cols, interleave)).collect();
            let slices: Vec<&[f32]> = x.iter().map(Vec::as_slice).collect();
            let int8 = interleave.map(|interleave| Int8Rows::new(&slices, cols, interleave));
            let x = int8.as_ref().map_or(TokenRows::F32(&slices), TokenRows::Int8);
            let mut out = vec![0.0; rows * tokens];
            let mut next = 0;
            let mut multiply = |matrices: usize| {
                for _ in 0..matrices {
                    product(of_matrix(next % count), x, &mut out);
                    next += 1;
                }
                black_box(&out);
            };
            let matrices = times_in(ROUND, || multiply(1));
            let reads = times_in(ROUND / 2.0, || read(stream));
            let mut ceilings: Vec<f64> = Vec::new();
            let mut rates: Vec<f64> = Vec::new();
            for _ in 0..self.rounds {
                let all = || (0..reads).for_each(|_| read(stream));
                ceilings.push(8.0 * (reads * stream.len()) as f64 / self.seconds(all) / 1e9);
                rates.push(matrices as f64 / self.seconds(|| multiply(matrices)));
            }
            let (ceiling, rate) = (median(&mut ceilings), median(&mut rates));
            let (macs, gigabytes) = (rate * (rows * cols * tokens) as f64 / 1e9, rate * bytes as f64 / 1e9);
            let activations = if int8.is_some() { "int8" } else { "f32" };
            let bits = 8.0 * bytes as f64 / (rows * cols) as f64;
            let share = 100.0 * gigabytes / ceiling;
            eprintln!(
                "| {format} ({}) | {bits:.2} | {activations} | {tokens} | {macs:.1} | {gigabytes:.2} | {ceiling:.1} | {share:.0} % |",
                format.suffix()
            );
            let model = format!("{rows}x{cols}");
            // the suffix tells GGUF's blocks from the same numbers of safetensors
            let format = format!("{} {} {activations}", format.to_string().replace(',', ""), format.suffix());
            let context = tokens.to_string();
            let line = |value, unit| {
                lines.print(&Row { model: &model, format: &format, context: &context, cache: "warm", value, unit });
            };
            line(macs, "GMAC/s");
            line(gigabytes, "GB/s");
            line(ceiling, "read GB/s");
        }
    }

    /// How long it takes: of the processor where there is one thread and the system says.
    fn seconds(&self, work: impl FnOnce()) -> f64 {
        let of_thread = || {
            let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
            times.split(' ').next()?.parse::<f64>().ok()
        };
        let (cpu, since) = (of_thread().filter(|_| self.threads == 1), Instant::now());
        work();
        match (cpu, of_thread()) {
            (Some(before), Some(after)) => (after - before) / 1e9,
            _ => since.elapsed().as_secs_f64(),
        }
    }
}

/// Every format that products have loops for.
fn formats() -> impl Iterator<Item = WeightFormat> {
    let affine = Affine::BITS.map(|bits| WeightFormat::Affine(Affine { bits, group: 64, scales: ScaleType::Bf16 }));
    let dense = [WeightFormat::Bf16, WeightFormat::F16, WeightFormat::F32];
    let blocks = Block::all().map(WeightFormat::Block);
    affine.into_iter().chain(blocks).chain(Scaled::KINDS.map(WeightFormat::Scaled)).chain(dense)
}

/// A row of numbers between -1 and 1, packed where it is to be.
fn activations(token: usize, cols: usize, interleave: Option<usize>) -> Vec<f32> {
    let x: Vec<f32> = (0..cols).map(|i| ((i * 7919 + token * 31) % 1009) as f32 / 504.5 - 1.0).collect();
    let Some(interleave) = interleave else { return x };
    let mut packed = vec![0.0; cols / 4 + cols / 16];
    pack_row(&x, interleave, &mut packed);
    packed
}

/// Reads everything once, with all threads of the pool.
fn read(stream: &[u64]) {
    let each = stream.len().div_ceil(4 * rayon::current_num_threads());
    let sum: u64 = stream.par_chunks(each).map(|words| words.iter().fold(0, |sum, word| sum ^ word)).sum();
    black_box(sum);
}

/// How often something fits in so many seconds, at least once.
fn times_in(seconds: f64, mut work: impl FnMut()) -> usize {
    work();
    let since = Instant::now();
    let mut times = 0u32;
    while times == 0 || since.elapsed().as_secs_f64() < seconds / 4.0 {
        work();
        times += 1;
    }
    (seconds / since.elapsed().as_secs_f64() * f64::from(times)).ceil() as usize
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The processor's name, where the system tells.
fn processor() -> String {
    let known = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = known.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
