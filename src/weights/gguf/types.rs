//! The types of ggml's tensors: how they are called, and how many bytes they take.

use flashflood_formats::WeightFormat;

/// A type of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GgmlType {
    /// Its number in files.
    pub(crate) id: u32,
    /// As ggml calls it.
    pub(crate) name: &'static str,
    /// Elements that are stored together.
    pub(super) block: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
}

/// (number, name, elements of a block, bytes of a block), from ggml.h and ggml-common.h.
const TYPES: [(u32, &str, usize, usize); 35] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
];

/// The type that files call `id`.
pub(super) fn known(id: u32) -> Option<GgmlType> {
    let found = TYPES.iter().find(|(known, ..)| *known == id);
    found.map(|&(id, name, block, bytes)| GgmlType { id, name, block, bytes })
}

/// The type of this name, in capitals or not.
pub(crate) fn named(name: &str) -> Option<GgmlType> {
    TYPES.iter().find(|(_, known, ..)| known.eq_ignore_ascii_case(name)).and_then(|(id, ..)| known(*id))
}

/// The names of the types that are computed with.
pub(crate) fn computed_with() -> Vec<&'static str> {
    let read = |(id, ..): &&(u32, &'static str, usize, usize)| WeightFormat::from_ggml(*id).is_some();
    TYPES.iter().filter(read).map(|(_, name, ..)| *name).collect()
}
