//! The codebooks of the IQ types and of 4-bit codes that are no numbers: fixed tables, which every reader of these formats
//! has.
//!
//! `grids.bin` has the vectors of six of them as indices into the values below, 2 bits each (8 values of 2 or 1 bits) or 4
//! bits each (4 values of 3 bits), lowest bits first, in the order of [`Codebook`]'s grids.

use std::sync::LazyLock;

static GRIDS: &[u8; 9216] = include_bytes!("grids.bin");

/// A table that codes are looked up in: on a GPU one buffer a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codebook {
    /// Of each byte, the values of its low and its high half in the two lowest bytes: `IQ4_NL`, `IQ4_XS`.
    Iq4,
    /// 256 vectors of 8 magnitudes, two words each.
    Iq2Xxs,
    /// 512 of these.
    Iq2Xs,
    /// 1024 of these.
    Iq2S,
    /// 2048 vectors of 8 values -1, 0, 1, as 16 + 8 times the value: a byte that an eighth can be added to.
    Iq1S,
    /// 256 vectors of 4 magnitudes, one word each.
    Iq3Xxs,
    /// 512 of these.
    Iq3S,
}

/// Values of the 4-bit codes of `IQ4_NL`.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Of each byte, the numbers of 4 bits (E2M1) of its halves, doubled. A GPU computes them.
pub(crate) static FP4: LazyLock<Vec<u32>> =
    LazyLock::new(|| pairs(&[0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]));

impl Codebook {
    /// All there are.
    pub const ALL: [Codebook; 7] = [
        Codebook::Iq4,
        Codebook::Iq2Xxs,
        Codebook::Iq2Xs,
        Codebook::Iq2S,
        Codebook::Iq1S,
        Codebook::Iq3Xxs,
        Codebook::Iq3S,
    ];

    /// The table, four values a word, the first in the lowest byte.
    pub fn words(self) -> &'static [u32] {
        static ALL: LazyLock<[Vec<u32>; 7]> = LazyLock::new(|| {
            let iq2 = [8, 25, 43, 0];
            [
                pairs(&IQ4),
                grid(&GRIDS[..512], 2, &iq2),
                grid(&GRIDS[512..1536], 2, &iq2),
                grid(&GRIDS[1536..3584], 2, &iq2),
                grid(&GRIDS[3584..7680], 2, &[8, 16, 24, 0]),
                grid(&GRIDS[7680..8192], 4, &[4, 12, 20, 28, 36, 44, 52, 62]),
                grid(&GRIDS[8192..], 4, &[1, 3, 5, 7, 9, 11, 13, 15]),
            ]
        });
        &ALL[Codebook::ALL.iter().position(|book| *book == self).unwrap_or_default()]
    }
}

impl Codebook {
    /// The table as products on the CPU look it up: [`BlockKind::grid`](flashflood_vectors::BlockKind::grid). 4-bit codes have
    /// one in registers.
    pub(crate) fn grid(self) -> &'static [u32] {
        static ALL: LazyLock<[Vec<u32>; 7]> = LazyLock::new(|| {
            Codebook::ALL.map(|book| match book {
                Codebook::Iq4 => Vec::new(),
                Codebook::Iq2Xxs | Codebook::Iq2Xs | Codebook::Iq2S => levels(book.words(), |value| value / 17),
                Codebook::Iq1S => levels(book.words(), |value| value / 8 - 1),
                Codebook::Iq3Xxs | Codebook::Iq3S => book.words().iter().map(|four| four + 0x4040_4040).collect(),
            })
        });
        &ALL[Codebook::ALL.iter().position(|book| *book == self).unwrap_or_default()]
    }
}

/// Of vectors of eight values their levels, four bits each: the first four in the low halves of a word's bytes.
fn levels(words: &[u32], level: impl Fn(u8) -> u8) -> Vec<u32> {
    let four = |word: u32| u32::from_le_bytes(word.to_le_bytes().map(&level));
    words.as_chunks::<2>().0.iter().map(|[first, last]| four(*first) | four(*last) << 4).collect()
}

fn pairs(values: &[i8; 16]) -> Vec<u32> {
    let value = |code: u32| u32::from(values[code as usize] as u8);
    (0..256).map(|byte| value(byte & 15) | value(byte >> 4) << 8).collect()
}

fn grid(indices: &[u8], bits: u32, values: &[u8]) -> Vec<u32> {
    let mask = (1u8 << bits) - 1;
    let all =
        indices.iter().flat_map(|byte| (0..8 / bits).map(move |i| values[usize::from(byte >> (i * bits) & mask)]));
    let all: Vec<u8> = all.collect();
    all.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect()
}
