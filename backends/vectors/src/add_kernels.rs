//! What a block of 32 columns of all rows adds to the sums of each token: one token after the other, or two at a time where
//! instructions multiply two by two.

/// One token after the other, over the `dot_words` of the module around.
macro_rules! add_by_token {
    ($(#[$attribute:meta])*) => {
        /// Changes the sums of each token.
        $(#[$attribute])*
        #[inline]
        fn add<const ONE: bool>(x: &[Block], sums: &mut Sums<'_, ONE>, of: impl Fn(&Block, Floats) -> Floats) {
            if ONE {
                sums.one = of(&x[0], sums.one);
            } else {
                for (x, sums) in x.iter().zip(&mut *sums.each) {
                    store(of(x, load_floats(sums)), sums);
                }
            }
        }

        /// Adds a block of all rows to the sums of each token.
        $(#[$attribute])*
        #[inline]
        fn add_block<const BITS: usize, const ONE: bool>(
            codes: [Words; 8],
            scale: Floats,
            bias: Floats,
            x: &[Block],
            sums: &mut Sums<'_, ONE>,
        ) {
            add(x, sums, |x, sum| {
                let products = product(to_floats(dot_words::<BITS>(spread(0), &codes, &x.words)), spread_float(x.scale));
                fused(bias, spread_float(x.sum), fused(products, scale, sum))
            });
        }

        /// Adds 32 columns of signed codes that have become unsigned.
        $(#[$attribute])*
        #[inline]
        fn add_symmetric<const BITS: usize, const ONE: bool>(
            codes: [Words; 8],
            scale: Floats,
            x: &[Block],
            sums: &mut Sums<'_, ONE>,
        ) {
            add(x, sums, |x, sum| {
                let products = dot_words::<BITS>(spread(x.lost[2] as u32), &codes, &x.words);
                fused(product(to_floats(products), spread_float(x.scale)), scale, sum)
            });
        }

        /// The same where the first half has another scale than the last.
        $(#[$attribute])*
        #[inline]
        fn add_halves<const BITS: usize, const ONE: bool>(
            codes: [Words; 8],
            scales: [Floats; 2],
            x: &[Block],
            sums: &mut Sums<'_, ONE>,
        ) {
            add(x, sums, |x, sum| {
                let low = dot_words::<BITS>(spread(x.lost[0] as u32), &codes[..4], &x.words[..4]);
                let high = dot_words::<BITS>(spread(x.lost[1] as u32), &codes[4..], &x.words[4..]);
                let both = fused(scales[1], to_floats(high), product(scales[0], to_floats(low)));
                fused(both, spread_float(x.scale), sum)
            });
        }

        /// The same where each half has a bias besides, and codes are from 0 on.
        $(#[$attribute])*
        #[inline]
        fn add_biased_halves<const BITS: usize, const ONE: bool>(
            codes: [Words; 8],
            scales: [Floats; 2],
            biases: [Floats; 2],
            x: &[Block],
            sums: &mut Sums<'_, ONE>,
        ) {
            add(x, sums, |x, sum| {
                let low = dot_words::<BITS>(spread(0), &codes[..4], &x.words[..4]);
                let high = dot_words::<BITS>(spread(0), &codes[4..], &x.words[4..]);
                let bias = product(biases[0], spread_float(x.halves[0]));
                let bias = fused(biases[1], spread_float(x.halves[1]), bias);
                let both = fused(scales[1], to_floats(high), fused(scales[0], to_floats(low), bias));
                fused(both, spread_float(x.scale), sum)
            });
        }
    };
}
pub(crate) use add_by_token;

/// Two tokens at a time, over the `two_by_two` of the module around, which has `by_two` rows of codes as it wants them.
#[cfg(target_arch = "aarch64")]
macro_rules! add_by_two {
    ($(#[$attribute:meta])*) => {
        /// Changes the sums of each token: of two at a time, and of one.
        $(#[$attribute])*
        #[inline]
        fn add_two<const ONE: bool>(
            x: &[Block],
            sums: &mut Sums<'_, ONE>,
            one: impl Fn(&Block, Floats) -> Floats,
            two: impl Fn(&[Block; 2], [Floats; 2]) -> [Floats; 2],
        ) {
            if ONE {
                sums.one = one(&x[0], sums.one);
                return;
            }
            let (pairs, last) = x.as_chunks::<2>();
            let (of_pairs, of_last) = sums.each.split_at_mut(2 * pairs.len());
            for (x, sums) in pairs.iter().zip(of_pairs.as_chunks_mut::<2>().0) {
                let [a, b] = two(x, [load_floats(&sums[0]), load_floats(&sums[1])]);
                store(a, &mut sums[0]);
                store(b, &mut sums[1]);
            }
            for (x, sums) in last.iter().zip(of_last) {
                store(one(x, load_floats(sums)), sums);
            }
        }

        /// Adds a block of all rows to the sums of each token.
        $(#[$attribute])*
        #[inline]
        fn add_block<const BITS: usize, const ONE: bool>(
            codes: [Words; 8],
            scale: Floats,
            bias: Floats,
            x: &[Block],
            sums: &mut Sums<'_, ONE>,
        ) {
            let of = |x: &Block, products: Words, sum: Floats| {
                let products = product(to_floats(products), spread_float(x.scale));
                fused(bias, spread_float(x.sum), fused(products, scale, sum))
            };
            let rows = by_two(codes);
            add_two(
                x,
                sums,
                |x, sum| of(x, dot_words::<BITS>(spread(0), &codes, &x.words), sum),
                |[a, b], [of_a, of_b]| {
                    let [products, others] = two_by_two([0, 0], &rows, &a.words, &b.words);
                    [of(a, products, of_a), of(b, others, of_b)]
                },
            );
        }

        /// Adds 32 columns of signed codes that have become unsigned.
        $(#[$attribute])*
        #[inline]
        fn add_symmetric<const BITS: usize, const ONE: bool>(
            codes: [Words; 8],
            scale: Floats,
            x: &[Block],
            sums: &mut Sums<'_, ONE>,
        ) {
            let of = |x: &Block, products: Words, sum: Floats| {
                fused(product(to_floats(products), spread_float(x.scale)), scale, sum)
            };
            let rows = by_two(codes);
            add_two(
                x,
                sums,
                |x, sum| of(x, dot_words::<BITS>(spread(x.lost[2] as u32), &codes, &x.words), sum),
                |[a, b], [of_a, of_b]| {
                    let lost = [a.lost[2] as u32, b.lost[2] as u32];
                    let [products, others] = two_by_two(lost, &rows, &a.words, &b.words);
                    [of(a, products, of_a), of(b, others, of_b)]
                },
            );
        }

        /// The same where the first half has another scale than the last.
        $(#[$attribute])*
        #[inline]
        fn add_halves<const BITS: usize, const ONE: bool>(
            codes: [Words; 8],
            scales: [Floats; 2],
            x: &[Block],
            sums: &mut Sums<'_, ONE>,
        ) {
            let of = |x: &Block, [low, high]: [Words; 2], sum: Floats| {
                let both = fused(scales[1], to_floats(high), product(scales[0], to_floats(low)));
                fused(both, spread_float(x.scale), sum)
            };
            let rows = by_two(codes);
            add_two(
                x,
                sums,
                |x, sum| {
                    let low = dot_words::<BITS>(spread(x.lost[0] as u32), &codes[..4], &x.words[..4]);
                    let high = dot_words::<BITS>(spread(x.lost[1] as u32), &codes[4..], &x.words[4..]);
                    of(x, [low, high], sum)
                },
                |[a, b], [of_a, of_b]| {
                    let lost = |half: usize| [a.lost[half] as u32, b.lost[half] as u32];
                    let low = two_by_two(lost(0), &rows[..4], &a.words[..4], &b.words[..4]);
                    let high = two_by_two(lost(1), &rows[4..], &a.words[4..], &b.words[4..]);
                    [of(a, [low[0], high[0]], of_a), of(b, [low[1], high[1]], of_b)]
                },
            );
        }

        /// The same where each half has a bias besides, and codes are from 0 on.
        $(#[$attribute])*
        #[inline]
        fn add_biased_halves<const BITS: usize, const ONE: bool>(
            codes: [Words; 8],
            scales: [Floats; 2],
            biases: [Floats; 2],
            x: &[Block],
            sums: &mut Sums<'_, ONE>,
        ) {
            let of = |x: &Block, [low, high]: [Words; 2], sum: Floats| {
                let bias = product(biases[0], spread_float(x.halves[0]));
                let bias = fused(biases[1], spread_float(x.halves[1]), bias);
                let both = fused(scales[1], to_floats(high), fused(scales[0], to_floats(low), bias));
                fused(both, spread_float(x.scale), sum)
            };
            let rows = by_two(codes);
            add_two(
                x,
                sums,
                |x, sum| {
                    let low = dot_words::<BITS>(spread(0), &codes[..4], &x.words[..4]);
                    let high = dot_words::<BITS>(spread(0), &codes[4..], &x.words[4..]);
                    of(x, [low, high], sum)
                },
                |[a, b], [of_a, of_b]| {
                    let low = two_by_two([0, 0], &rows[..4], &a.words[..4], &b.words[..4]);
                    let high = two_by_two([0, 0], &rows[4..], &a.words[4..], &b.words[4..]);
                    [of(a, [low[0], high[0]], of_a), of(b, [low[1], high[1]], of_b)]
                },
            );
        }
    };
}
#[cfg(target_arch = "aarch64")]
pub(crate) use add_by_two;
