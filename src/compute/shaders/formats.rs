//! Weight formats, as kernels of products read them.

use super::File;

/// A weight format, as far as kernels see it.
pub(super) struct Format {
    /// What the names of its shaders end with.
    pub(super) suffix: &'static str,
    pub(super) weights: File,
    /// How a block is read for products with activations in f32.
    pub(super) block_f32: File,
    /// And in 8 bits; none where it is never multiplied with those.
    pub(super) int8: Option<Int8>,
    /// What its codes, and the signs beside them, are looked up in, where teams have that in workgroup memory.
    pub(super) table: Option<Table>,
}

/// What codes and signs are looked up in by workgroups.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) values: File,
    pub(super) signs: File,
}

/// How products with activations in 8 bits read a format.
#[derive(Clone, Copy)]
pub(super) struct Int8 {
    pub(super) activations: File,
    pub(super) block: File,
    /// None where codes are no integers: their tiles are of f32.
    pub(super) tile_scales: Option<File>,
    pub(super) weight_halves: File,
    /// What a thread of a team multiplies at a time.
    pub(super) unit: File,
}

impl Int8 {
    /// Of blocks with one scale.
    const fn of_32(block: File) -> Int8 {
        Int8 {
            activations: shared!("activations_int8"),
            block,
            tile_scales: Some(shared!("tile_scales_32")),
            weight_halves: shared!("weight_halves"),
            unit: shared!("unit_of_block"),
        }
    }

    /// Of blocks with a scale for each 16 columns.
    const fn of_16(block: File) -> Int8 {
        Int8 {
            activations: shared!("activations_int8_16"),
            block,
            tile_scales: Some(shared!("tile_scales_16")),
            weight_halves: shared!("weight_halves_16"),
            unit: shared!("unit_of_block"),
        }
    }

    const fn by(self, unit: File) -> Int8 {
        Int8 { unit, ..self }
    }
}

macro_rules! dense {
    ($suffix:literal) => {
        Format {
            suffix: $suffix,
            weights: shared!(concat!("weights_", $suffix)),
            block_f32: shared!("block_dense"),
            int8: None,
            table: None,
        }
    };
}

macro_rules! affine {
    ($suffix:literal) => {
        Format {
            suffix: $suffix,
            weights: shared!(concat!("weights_", $suffix)),
            block_f32: shared!("block_affine_f32"),
            int8: Some(Int8::of_32(shared!("block_affine_int8"))),
            table: None,
        }
    };
}

macro_rules! blocks {
    ($suffix:literal, $int8:expr) => {
        blocks!($suffix, $int8, None)
    };
    ($suffix:literal, $int8:expr, $values:literal and $signs:literal) => {
        blocks!($suffix, $int8, Some(Table { values: shared!($values), signs: shared!($signs) }))
    };
    ($suffix:literal, $int8:expr, $table:expr) => {
        Format {
            suffix: $suffix,
            weights: shared!(concat!("separate_", $suffix)),
            block_f32: shared!("block_separated_f32"),
            int8: Some($int8),
            table: $table,
        }
    };
}

const OF_32: Int8 = Int8::of_32(shared!("block_separated_int8"));
const OF_16: Int8 = Int8::of_16(shared!("block_separated_int8_16"));
const BY_TWO: Int8 = OF_16.by(shared!("unit_of_two"));
const FP8: Int8 = Int8 {
    activations: shared!("activations_int8_fp8"),
    block: shared!("block_fp8_int8"),
    tile_scales: None,
    weight_halves: shared!("weight_halves_f32"),
    unit: shared!("unit_of_block"),
};
const FP4: Int8 = OF_32.by(shared!("unit_fp4"));
const FP4_16: Int8 = OF_16.by(shared!("unit_fp4_16"));
const FOUR_MXFP4: Int8 = OF_32.by(shared!("unit_mxfp4"));
const FOUR_NVFP4: Int8 = OF_16.by(shared!("unit_nvfp4"));

/// Every weight format.
pub(super) static FORMATS: [Format; 35] = [
    dense!("bf16"),
    dense!("f16"),
    dense!("f32"),
    Format {
        suffix: "fp8",
        weights: shared!("numbers_fp8"),
        block_f32: shared!("block_fp8"),
        int8: Some(FP8),
        table: None,
    },
    Format {
        suffix: "fp4",
        weights: shared!("separate_fp4"),
        block_f32: shared!("block_interleaved_f32"),
        int8: Some(FP4),
        table: None,
    },
    Format {
        suffix: "fp4_16",
        weights: shared!("separate_fp4_16"),
        block_f32: shared!("block_interleaved_f32"),
        int8: Some(FP4_16),
        table: None,
    },
    affine!("q2"),
    affine!("q3"),
    affine!("q4"),
    affine!("q5"),
    affine!("q6"),
    affine!("q8"),
    blocks!("iq1_m", OF_16),
    blocks!("iq1_s", OF_32),
    blocks!("iq2_s", OF_16, "table_of_device" and "signs_of_four"),
    blocks!("iq2_xs", OF_16, "table_of_eights" and "signs_of_seven"),
    blocks!("iq2_xxs", OF_32, "table_of_eights" and "signs_of_seven"),
    blocks!("iq3_s", OF_32, "table_of_fours" and "signs_of_four"),
    blocks!("iq3_xxs", OF_32, "table_of_fours" and "signs_of_four"),
    blocks!("iq4_nl", OF_32, "table_of_fours" and "signs_none"),
    blocks!("iq4_xs", OF_32, "table_of_fours" and "signs_none"),
    blocks!("mxfp4", FOUR_MXFP4),
    blocks!("nvfp4", FOUR_NVFP4),
    blocks!("q2_k", BY_TWO),
    blocks!("q3_k", BY_TWO),
    blocks!("q4_0", OF_32),
    blocks!("q4_1", OF_32),
    blocks!("q4_k", OF_32),
    blocks!("q5_0", OF_32),
    blocks!("q5_1", OF_32),
    blocks!("q5_k", OF_32),
    blocks!("q6_k", BY_TWO),
    blocks!("q8_0", OF_32),
    blocks!("tq1_0", OF_32),
    blocks!("tq2_0", OF_32),
];
