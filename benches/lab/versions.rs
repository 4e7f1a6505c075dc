//! What is measured: shapes of the 397B and 35B models, and versions for each.

use flashflood::compute::shaders::{self, Form};
use flashflood::weights::WeightFormat;
use flashflood_formats::{Block, Scaled};

/// A product.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// `matvec`, `expert_gate_up` or `expert_down`.
    pub(crate) kernel: &'static str,
    /// Weights.
    pub(crate) format: WeightFormat,
    /// Of the output.
    pub(crate) rows: usize,
    /// Of the weights.
    pub(crate) cols: usize,
    /// (token, expert) pairs of a call; 1 for a matrix.
    pub(crate) pairs: usize,
}

impl Case {
    pub(crate) fn is_expert(&self) -> bool {
        self.kernel != "matvec"
    }
}

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    let q4 = WeightFormat::affine(4, 64);
    let product = |format, rows, cols| Case { kernel: "matvec", format, rows, cols, pairs: 1 };
    let experts = |format, hidden, intermediate, pairs| {
        [
            Case { kernel: "expert_gate_up", format, rows: intermediate, cols: hidden, pairs },
            Case { kernel: "expert_down", format, rows: hidden, cols: intermediate, pairs },
        ]
    };
    let mut cases = vec![
        product(q4, 248_320, 4096),
        product(q4, 16384, 4096),
        product(q4, 4096, 8192),
        product(q4, 2048, 4096),
        product(q4, 4096, 1024),
        product(q4, 12288, 2048),
    ];
    cases.extend(experts(q4, 4096, 1024, 10));
    cases.extend(experts(q4, 2048, 512, 8));
    for bits in [8, 3, 2] {
        let format = WeightFormat::affine(bits, 64);
        cases.push(product(format, 16384, 4096));
        cases.extend(experts(format, 4096, 1024, 10));
    }
    cases
}

/// Products of every type of blocks and of small floats, and of 4 bits affine beside them.
pub(crate) fn cases_of_blocks() -> Vec<Case> {
    let floats = Scaled::KINDS.map(WeightFormat::Scaled);
    let formats = Block::all().map(WeightFormat::Block).chain(floats).chain([WeightFormat::affine(4, 64)]);
    let cases = formats.flat_map(|format| {
        [
            Case { kernel: "matvec", format, rows: 16384, cols: 4096, pairs: 1 },
            Case { kernel: "expert_gate_up", format, rows: 1024, cols: 4096, pairs: 10 },
            Case { kernel: "expert_down", format, rows: 4096, cols: 1024, pairs: 10 },
        ]
    });
    cases.collect()
}

/// A kernel with constants.
pub(crate) struct Version {
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) entry: &'static str,
    pub(crate) constants: Vec<(&'static str, f64)>,
    pub(crate) is_int8: bool,
    /// Whether its first outputs are the product.
    pub(crate) comparable: bool,
}

impl Version {
    /// A constant, or 0.
    pub(crate) fn constant(&self, name: &str) -> u32 {
        self.constants.iter().find(|(n, _)| *n == name).map_or(0, |(_, v)| *v as u32)
    }

    /// Workgroups.
    pub(crate) fn groups(&self, case: &Case) -> u32 {
        let rows = case.rows as u32;
        match (self.name.as_str(), case.kernel) {
            ("read", _) => (case.format.matrix_bytes(case.rows, case.cols) / 16384) as u32,
            (_, "expert_gate_up") => rows.div_ceil(32),
            _ => rows.div_ceil(self.constant("threads") / self.constant("lanes") * self.constant("sums")),
        }
    }
}

/// Versions that make sense for a case.
pub(crate) fn of(case: &Case) -> Vec<Version> {
    let mut versions = Vec::new();
    if !case.is_expert() {
        versions.push(Version {
            name: "read".into(),
            source: include_str!("read.wgsl").into(),
            entry: "main",
            constants: vec![("threads", 256.0)],
            is_int8: false,
            comparable: false,
        });
    }
    let bits = case.format.suffix();
    for form in [Form::F32, Form::Int8] {
        if form == Form::Int8 && case.format.interleave().is_none() {
            continue;
        }
        let shader = shaders::variant(case.kernel, form, bits);
        let (source, entry) = shaders::source(shader).unwrap();
        let mut add = |lanes: usize, threads: usize, sums: usize, packed: bool| {
            if lanes > case.cols / 32 || threads < lanes {
                return;
            }
            let mut constants = vec![("lanes", lanes as f64), ("threads", threads as f64), ("sums", sums as f64)];
            constants.extend(case.format.constants());
            if packed {
                let interleave = case.format.interleave().unwrap_or(1);
                constants.extend([("packed", 1.0), ("interleave", interleave as f64)]);
            }
            versions.push(Version {
                name: format!("{shader} {lanes}/{threads} x{sums}{}", if packed { " packed" } else { "" }),
                source: source.clone(),
                entry,
                constants,
                is_int8: form == Form::Int8,
                comparable: !packed,
            });
        };
        if let WeightFormat::Block(_) | WeightFormat::Scaled(_) = case.format {
            // teams that the program chooses from
            let lanes = if case.kernel == "expert_down" { 8 } else { 32 };
            match case.kernel {
                "expert_gate_up" => add(lanes, 256, 8, form == Form::Int8),
                _ => [(32, 4), (32, 8), (64, 4), (64, 8), (128, 2)]
                    .into_iter()
                    .for_each(|(t, s)| add(lanes, t, s, false)),
            }
            continue;
        }
        match case.kernel {
            "expert_gate_up" => {
                for (lanes, threads) in
                    [(8, 64), (8, 128), (8, 256), (16, 128), (16, 256), (16, 512), (32, 256), (32, 512), (64, 512)]
                {
                    let sums = 64 * lanes / threads;
                    add(lanes, threads, sums, false);
                    // quantising is for workgroups of at most 256 threads
                    if form == Form::Int8 && threads <= 256 {
                        add(lanes, threads, sums, true);
                    }
                }
            }
            _ => {
                for lanes in [8, 16, 32, 64, 128] {
                    for threads in [32, 64, 128, 256] {
                        for sums in [1, 2, 4, 8] {
                            // the corners of the cube are not interesting: few rows for few threads
                            if threads <= 4 * lanes && threads * sums >= 64 && (bits == "q4" || lanes == 32) {
                                add(lanes, threads, sums, false);
                            }
                        }
                    }
                }
            }
        }
    }
    versions
}
