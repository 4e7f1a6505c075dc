//! The loops for one token, over the primitives of whichever module they are put in: rows one after the other, in the order of
//! memory.
//!
//! A token uses each weight once, so memory decides, and a processor reads a row after the other faster than 16 rows at once
//! (q4 on a core of Zen 5: 28.6 against 17.5 GB/s, of 33 that are only read): it foresees one stream. A row's sums of products are
//! transposed instead of its weights. What is left to do for them, multiplications with scales that wait for each other,
//! is done between the rows of the next tile, so that reading never pauses.

/// How many bytes ahead of what is read codes are asked for: on Zen 5 4,096 gave 21.1, 8,192 23.3, 16,384 21.5 GB/s.
pub(crate) const AHEAD: usize = 8192;

/// At least so many blocks are added between two rows, so that a short row's are not a call each.
pub(crate) const WORTH_A_CALL: usize = 4;

/// The loops, beside those of [`kernels`](crate::kernels::kernels). Besides what these want: `load_bytes`, `store_words`, `square`,
/// `dot4`, `add_pairs`, `join_quarters`, `three_bits` and `prefetch`.
macro_rules! row_kernels {
    ($(#[$attribute:meta])*) => {
        use $crate::row_kernels::{AHEAD, WORTH_A_CALL};

        /// How many registers of codes one register of packed weights becomes.
        const fn planes(bits: usize) -> usize {
            match bits {
                2 => 4,
                3 | 4 => 2,
                _ => 1,
            }
        }

        /// Bytes of packed weights in one such register.
        const fn packed(bits: usize) -> usize {
            LANES * if bits == 3 { 3 } else { 4 }
        }

        /// How many registers of packed weights `LANES` blocks fill.
        const fn registers(bits: usize) -> usize {
            LANES * 4 * bits / packed(bits)
        }

        /// Where `sums_of` puts the sum of one of `LANES` blocks.
        const fn place(bits: usize, block: usize) -> usize {
            // groups of four lanes in a register
            let quarters = LANES / 4;
            match bits {
                2 => 4 * (block % (2 * quarters) / 2) + 2 * (block / (2 * quarters)) + block % 2,
                _ => 4 * (block % quarters) + block / quarters,
            }
        }

        /// Activations of one token as `sums_of` multiplies with them, for each `LANES` blocks; 0 beyond the last block.
        $(#[$attribute])*
        fn in_rows<const BITS: usize>(x: &[Block]) -> Vec<u32> {
            // 3 bits become 4 at first
            let words = if BITS == 3 { 4 } else { BITS };
            let each = registers(BITS) * planes(BITS) * LANES;
            let mut out = vec![0; x.len().div_ceil(LANES) * each];
            for (chunk, out) in out.chunks_exact_mut(each).enumerate() {
                for (i, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                    for (lane, out) in out.iter_mut().enumerate() {
                        let word = i / planes(BITS) * LANES + lane;
                        let block = chunk * LANES + word / words;
                        if block < x.len() {
                            *out = x[block].words[i % planes(BITS) * words + word % words];
                        }
                    }
                }
            }
            out
        }

        /// The sums of products of each of `LANES` blocks of a row, in the order of `place`.
        $(#[$attribute])*
        #[inline]
        fn sums_of<const BITS: usize>(bytes: &[u8], x: &[[u32; LANES]]) -> Words {
            let mut sums = [spread(0); 8];
            let registers = const { registers(BITS) };
            if BITS == 3 {
                let (bytes, x) = (bytes.as_chunks::<{ 3 * LANES }>().0, x.as_chunks::<2>().0);
                for ((sums, bytes), x) in sums[..registers].iter_mut().zip(bytes).zip(x) {
                    let [first, last] = three_bits(bytes);
                    *sums = dot4::<3>(dot4::<3>(spread(0), first, load(&x[0])), last, load(&x[1]));
                }
            } else {
                let bytes = bytes.as_chunks::<{ 4 * LANES }>().0;
                for ((sums, bytes), x) in sums[..registers].iter_mut().zip(bytes).zip(x.chunks_exact(planes(BITS))) {
                    let packed = load_bytes(bytes);
                    for (plane, x) in x.iter().enumerate() {
                        let codes = match BITS {
                            2 => and(right(packed, 2 * plane as u32), 0x0303_0303),
                            4 if plane == 0 => and(packed, 0x0f0f_0f0f),
                            4 => and(right(packed, 4), 0x0f0f_0f0f),
                            _ => packed,
                        };
                        *sums = dot4::<BITS>(*sums, codes, load(x));
                    }
                }
            }
            let [a, b, c, d, e, f, g, h] = sums;
            match BITS {
                2 => add_pairs(a, b),
                8 => {
                    let low = add_pairs(join_quarters(a, b), join_quarters(c, d));
                    add_pairs(low, add_pairs(join_quarters(e, f), join_quarters(g, h)))
                }
                _ => add_pairs(add_pairs(a, b), add_pairs(c, d)),
            }
        }

        /// What is known of `LANES` rows.
        struct RowTile {
            /// Of each `LANES` blocks, of each row, in the order of `place`.
            sums: Vec<[[u32; LANES]; LANES]>,
            scales: Vec<[f32; LANES]>,
            biases: Vec<[f32; LANES]>,
        }

        /// What there is of the products of a tile's rows.
        struct Rest {
            sum: Floats,
            /// The next block, its group, and how many of its group there are from it on.
            block: usize,
            group: usize,
            left: usize,
        }

        /// Adds the blocks up to `end`. `columns` are sums of products of
        /// `LANES` blocks, `[block, row]`.
        $(#[$attribute])*
        #[inline]
        fn add_blocks<const BITS: usize>(
            tile: &RowTile,
            per_group: usize,
            x: &[Block],
            end: usize,
            rest: &mut Rest,
            columns: &mut [[u32; LANES]; LANES],
        ) {
            let (first, end, mut sum) = (rest.block, end.max(rest.block), rest.sum);
            for (block, x) in (first..end).zip(&x[first..end]) {
                if block % LANES == 0 {
                    let mut sums = [spread(0); LANES];
                    for (sums, row) in sums.iter_mut().zip(&tile.sums[block / LANES]) {
                        *sums = load(row);
                    }
                    let sums = square(sums);
                    for i in 0..LANES {
                        store_words(sums[place(BITS, i)], &mut columns[i]);
                    }
                }
                let (scale, bias) = (load_floats(&tile.scales[rest.group]), load_floats(&tile.biases[rest.group]));
                let products = product(to_floats(load(&columns[block % LANES])), spread_float(x.scale));
                sum = fused(bias, spread_float(x.sum), fused(products, scale, sum));
                rest.left -= 1;
                if rest.left == 0 {
                    (rest.group, rest.left) = (rest.group + 1, per_group);
                }
            }
            (rest.block, rest.sum) = (end, sum);
        }

        /// `affine` of one token.
        $(#[$attribute])*
        fn one_token<const BITS: usize>(w: &Affine<'_>, first: usize, x: &Activations, out: &mut [f32]) {
            // bytes of 5 and 6 bits begin anywhere in a word, and short rows would be padded: the small MoE has 1,600 tokens/s
            // so and 1,950 in tiles
            if matches!(BITS, 5 | 6) || w.cols < 32 * LANES {
                affine_tokens::<BITS, true>(w, first, x, out);
            } else {
                affine_rows::<BITS>(w, first, x, out);
            }
        }

        /// The same by rows.
        $(#[$attribute])*
        fn affine_rows<const BITS: usize>(w: &Affine<'_>, first: usize, x: &Activations, out: &mut [f32]) {
            let (blocks, groups, per_group) = (w.cols / 32, w.cols / w.group, w.group / 32);
            let (of_row, of_chunk) = (4 * BITS * blocks, 4 * BITS * LANES);
            let of_numbers = groups * w.number.bytes();
            let x_blocks = x.of_one_token();
            let x_rows = x.in_rows(BITS, LANES, || in_rows::<BITS>(x_blocks));
            let x_rows = x_rows.as_chunks::<LANES>().0;
            let x_chunks = x_rows.chunks_exact(registers(BITS) * planes(BITS));
            let mut last = [0; 32 * LANES];
            let mut words = vec![[0; LANES]; groups];
            let tile = || RowTile {
                sums: vec![[[0; LANES]; LANES]; blocks.div_ceil(LANES)],
                scales: vec![[0.0; LANES]; groups],
                biases: vec![[0.0; LANES]; groups],
            };
            let (mut now, mut before, mut columns) = (tile(), tile(), [[0; LANES]; LANES]);
            let count = out.len();
            // once more, for what is left to do for the last tile
            for r in (0..count + LANES).step_by(LANES) {
                let mut rest = Rest {
                    sum: spread_float(0.0),
                    block: if r == 0 { blocks } else { 0 },
                    group: 0,
                    left: per_group,
                };
                let here = LANES.min(count.saturating_sub(r));
                if here > 0 {
                    let rows = |stream| rows_of(stream, of_numbers, first + r, here);
                    numbers(w.number, &rows(w.scales), &mut words, &mut now.scales);
                    numbers(w.number, &rows(w.biases), &mut words, &mut now.biases);
                }
                // scales and biases of the tile after next
                let (later, lines) = ((first + r + 2 * LANES) * of_numbers, (LANES * of_numbers).div_ceil(64));
                for lane in 0..here {
                    let row = &w.codes[(first + r + lane) * of_row..][..of_row];
                    for line in lane * lines / LANES..(lane + 1) * lines / LANES {
                        prefetch(w.scales, later + 64 * line);
                        prefetch(w.biases, later + 64 * line);
                    }
                    let whole = row.chunks_exact(of_chunk);
                    let partial = whole.remainder();
                    let mut sums = now.sums.iter_mut().zip(x_chunks.clone());
                    for (bytes, (sums, x)) in whole.zip(&mut sums) {
                        for line in (0..of_chunk).step_by(64) {
                            prefetch(bytes, line + AHEAD);
                        }
                        store_words(sums_of::<BITS>(bytes, x), &mut sums[lane]);
                    }
                    if let Some((sums, x)) = sums.next() {
                        last[..partial.len()].copy_from_slice(partial);
                        store_words(sums_of::<BITS>(&last[..of_chunk], x), &mut sums[lane]);
                    }
                    let end = (lane + 1) * blocks / LANES;
                    if end >= rest.block + WORTH_A_CALL {
                        add_blocks::<BITS>(&before, per_group, x_blocks, end, &mut rest, &mut columns);
                    }
                }
                add_blocks::<BITS>(&before, per_group, x_blocks, blocks, &mut rest, &mut columns);
                if r > 0 {
                    let mut sums = [0.0; LANES];
                    store(rest.sum, &mut sums);
                    let out = &mut out[r - LANES..count.min(r)];
                    out.copy_from_slice(&sums[..out.len()]);
                }
                std::mem::swap(&mut now, &mut before);
            }
        }
    };
}
pub(crate) use row_kernels;
