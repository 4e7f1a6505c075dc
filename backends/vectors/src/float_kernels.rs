//! Loops over f32, over the primitives of whichever module they are put in.

/// Positions whose scores are weighed together: those of a multiple of this and the next ones.
pub(crate) const POSITIONS: usize = 16;

/// The loops. Beside what [`kernels`](crate::kernels) wants of the module around: `TILE` (rows and tokens of a tile) and
/// `as_words`, `difference`, `quotient`, `larger`, `smaller`, `add_words`.
macro_rules! float_kernels {
    ($(#[$attribute:meta])*) => {
        use $crate::float_kernels::POSITIONS;
        use $crate::floats::{Attend, DeltaStep, Seen};

        /// Registers of 32 columns.
        const WIDE: usize = 32 / LANES;
        /// Sums of products that run at a time.
        const SUMS: usize = 8;

        $(#[$attribute])*
        #[inline]
        fn part(columns: &[f32; 32], i: usize) -> Floats {
            load_floats(&columns.as_chunks::<LANES>().0[i])
        }

        /// 32 running sums, halved until one is left.
        $(#[$attribute])*
        #[inline]
        fn total(sums: [Floats; WIDE]) -> f32 {
            let mut all = [0.0; 32];
            for i in 0..WIDE {
                store(sums[i], &mut all.as_chunks_mut::<LANES>().0[i]);
            }
            let mut n = 16;
            while n > 0 {
                for i in 0..n {
                    all[i] += all[i + n];
                }
                n /= 2;
            }
            all[0]
        }

        /// Each of `R` rows times each of `T` tokens, which have as many columns, whole blocks of 32.
        $(#[$attribute])*
        #[inline]
        fn dots<const R: usize, const T: usize>(rows: [&[f32]; R], x: [&[f32]; T]) -> [[f32; T]; R] {
            let (mut rows, mut x) = (rows.map(|row| row.as_chunks::<32>().0), x.map(|x| x.as_chunks::<32>().0));
            // of one length, so that it is looked at once
            let blocks = rows[0].len();
            for row in &mut rows {
                *row = &row[..blocks];
            }
            for x in &mut x {
                *x = &x[..blocks];
            }
            let mut sums = [[[spread_float(0.0); WIDE]; T]; R];
            // as many sums at a time as registers hold, and as hide how long an addition takes
            let parts = (SUMS / (R * T)).clamp(1, WIDE);
            for i in (0..WIDE).step_by(parts) {
                let mut now = [spread_float(0.0); SUMS];
                for b in 0..blocks {
                    for p in 0..parts {
                        for r in 0..R {
                            let row = part(&rows[r][b], i + p);
                            for t in 0..T {
                                let sum = &mut now[(p * R + r) * T + t];
                                *sum = fused(row, part(&x[t][b], i + p), *sum);
                            }
                        }
                    }
                }
                for p in 0..parts {
                    for r in 0..R {
                        for t in 0..T {
                            sums[r][t][i + p] = now[(p * R + r) * T + t];
                        }
                    }
                }
            }
            sums.map(|row| row.map(|sums| total(sums)))
        }

        $(#[$attribute])*
        pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
            let (whole, rest) = a.as_chunks::<32>();
            let (b, b_rest) = b.split_at(32 * whole.len());
            let b = b.as_chunks::<32>().0;
            let mut sums = [spread_float(0.0); WIDE];
            for n in 0..whole.len() {
                for i in 0..WIDE {
                    sums[i] = fused(part(&whole[n], i), part(&b[n], i), sums[i]);
                }
            }
            if !rest.is_empty() {
                let (mut last, mut b_last) = ([0.0; 32], [0.0; 32]);
                last[..rest.len()].copy_from_slice(rest);
                b_last[..rest.len()].copy_from_slice(b_rest);
                for i in 0..WIDE {
                    sums[i] = fused(part(&last, i), part(&b_last, i), sums[i]);
                }
            }
            total(sums)
        }

        $(#[$attribute])*
        pub(crate) fn product_of_rows(weights: &[f32], cols: usize, x: &[&[f32]], out: &mut [f32]) {
            const ROWS: usize = TILE[0];
            const TOKENS: usize = TILE[1];
            let tokens = x.len();
            let tiles = weights.chunks(ROWS * cols).zip(out.chunks_mut(ROWS * tokens));
            for (weights, out) in tiles {
                let whole = weights.len() == ROWS * cols;
                let mut t = 0;
                while t < tokens {
                    if whole && t + TOKENS <= tokens {
                        let rows = std::array::from_fn::<_, ROWS, _>(|r| &weights[r * cols..][..cols]);
                        let x = std::array::from_fn::<_, TOKENS, _>(|i| &x[t + i][..cols]);
                        for (r, found) in dots::<ROWS, TOKENS>(rows, x).into_iter().enumerate() {
                            out[r * tokens + t..][..TOKENS].copy_from_slice(&found);
                        }
                        t += TOKENS;
                    } else if whole {
                        let rows = std::array::from_fn::<_, ROWS, _>(|r| &weights[r * cols..][..cols]);
                        for (r, found) in dots::<ROWS, 1>(rows, [&x[t][..cols]]).into_iter().enumerate() {
                            out[r * tokens + t] = found[0];
                        }
                        t += 1;
                    } else {
                        for (r, row) in weights.chunks_exact(cols).enumerate() {
                            out[r * tokens + t] = dots::<1, 1>([row], [&x[t][..cols]])[0][0];
                        }
                        t += 1;
                    }
                }
            }
        }

        /// e^x within 2 units in the last place, of what is below -87.3 that of -87.3; NaN stays NaN.
        $(#[$attribute])*
        #[inline]
        fn exp(x: Floats) -> Floats {
            // adding this rounds to whole numbers and leaves them in the lowest bits
            const ROUND: f32 = 12_582_912.0;
            const TERMS: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
            let x = smaller(spread_float(88.0), larger(spread_float(-87.3), x));
            let shifted = fused(x, spread_float(std::f32::consts::LOG2_E), spread_float(ROUND));
            let n = difference(shifted, spread_float(ROUND));
            // ln 2 in two parts, of which the first has few bits
            let r = fused(n, spread_float(-0.693_359_4), x);
            let r = fused(n, spread_float(2.121_944_4e-4), r);
            let mut sum = spread_float(1.0 / 5040.0);
            for term in TERMS {
                sum = fused(sum, r, spread_float(term));
            }
            let sum = fused(sum, r, spread_float(1.0));
            as_floats(add_words(as_words(sum), left(as_words(shifted), 23)))
        }

        /// `1 / (1 + e^-x)`.
        $(#[$attribute])*
        #[inline]
        fn sigmoid(x: Floats) -> Floats {
            let one = spread_float(1.0);
            quotient(one, sum(one, exp(difference(spread_float(0.0), x))))
        }

        $(#[$attribute])*
        #[inline]
        fn silu(x: Floats) -> Floats {
            quotient(x, sum(spread_float(1.0), exp(difference(spread_float(0.0), x))))
        }

        /// The first numbers of `from`, and zeros.
        $(#[$attribute])*
        #[inline]
        fn padded(from: &[f32]) -> Floats {
            let mut all = [0.0; LANES];
            all[..from.len()].copy_from_slice(from);
            load_floats(&all)
        }

        /// As many as `to` has room for.
        $(#[$attribute])*
        #[inline]
        fn store_first(values: Floats, to: &mut [f32]) {
            let mut all = [0.0; LANES];
            store(values, &mut all);
            to.copy_from_slice(&all[..to.len()]);
        }

        $(#[$attribute])*
        pub(crate) fn exp_all(x: &mut [f32]) {
            let (whole, rest) = x.as_chunks_mut::<LANES>();
            for x in whole {
                store(exp(load_floats(x)), x);
            }
            store_first(exp(padded(rest)), rest);
        }

        $(#[$attribute])*
        pub(crate) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
            let (whole, rest) = out.as_chunks_mut::<LANES>();
            let (gates, gate) = gate.as_chunks::<LANES>();
            let (ups, up) = up.as_chunks::<LANES>();
            for (i, out) in whole.iter_mut().enumerate() {
                store(product(silu(load_floats(&gates[i])), load_floats(&ups[i])), out);
            }
            store_first(product(silu(padded(gate)), padded(up)), rest);
        }

        $(#[$attribute])*
        pub(crate) fn times_sigmoid(out: &mut [f32], gate: &[f32]) {
            let (whole, rest) = out.as_chunks_mut::<LANES>();
            let (gates, gate) = gate.as_chunks::<LANES>();
            for (i, out) in whole.iter_mut().enumerate() {
                store(product(load_floats(out), sigmoid(load_floats(&gates[i]))), out);
            }
            store_first(product(padded(rest), sigmoid(padded(gate))), rest);
        }

        $(#[$attribute])*
        pub(crate) fn gated_norm(x: &mut [f32], eps: f32, weight: &[f32], gate: &[f32]) {
            let scale = spread_float(1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt());
            let (whole, rest) = x.as_chunks_mut::<LANES>();
            let (weights, weight) = weight.as_chunks::<LANES>();
            let (gates, gate) = gate.as_chunks::<LANES>();
            for (i, x) in whole.iter_mut().enumerate() {
                let factor = product(product(scale, load_floats(&weights[i])), silu(load_floats(&gates[i])));
                store(product(load_floats(x), factor), x);
            }
            store_first(product(padded(rest), product(product(scale, padded(weight)), silu(padded(gate)))), rest);
        }

        /// `silu` of the sums of inputs times weights, tap after tap.
        $(#[$attribute])*
        pub(crate) fn convolve(weights: &[&[f32]], inputs: &[&[f32]], out: &mut [f32]) {
            let whole = out.len() / LANES * LANES;
            let mut at = 0;
            while at < out.len() {
                let n = LANES.min(out.len() - at);
                let mut total = spread_float(0.0);
                for (weights, inputs) in weights.iter().zip(inputs) {
                    total = match at < whole {
                        true => fused(load_floats(first(&weights[at..])), load_floats(first(&inputs[at..])), total),
                        false => fused(padded(&weights[at..at + n]), padded(&inputs[at..at + n]), total),
                    };
                }
                store_first(silu(total), &mut out[at..at + n]);
                at += n;
            }
        }

        $(#[$attribute])*
        #[inline]
        fn first(from: &[f32]) -> &[f32; LANES] {
            from.first_chunk().expect("whole registers")
        }

        /// `N` registers of columns of a state, from column `at` on: in these all tokens, one after the other. What the next one
        /// finds in the state is summed up as it changes.
        $(#[$attribute])*
        #[inline]
        fn delta_columns<const N: usize>(
            steps: &[DeltaStep<'_>],
            at: usize,
            stride: usize,
            state: &mut [f32],
            out: &mut [f32],
        ) {
            let Some(first_step) = steps.first() else { return };
            let columns = out.len() / steps.len();
            let mut found = [spread_float(0.0); N];
            for (i, k) in first_step.k.iter().enumerate() {
                let row = &state[i * stride + at..][..N * LANES];
                for n in 0..N {
                    found[n] = fused(spread_float(*k), load_floats(first(&row[n * LANES..])), found[n]);
                }
            }
            for (t, step) in steps.iter().enumerate() {
                let decay = spread_float(step.decay);
                for n in 0..N {
                    let v = load_floats(first(&step.v[at + n * LANES..]));
                    found[n] = product(spread_float(step.beta), difference(v, product(decay, found[n])));
                }
                let (mut read, mut next) = ([spread_float(0.0); N], [spread_float(0.0); N]);
                // of the last token nobody asks
                let next_k = steps.get(t + 1).unwrap_or(step).k;
                for (i, ((k, q), next_k)) in step.k.iter().zip(step.q).zip(next_k).enumerate() {
                    let row = &mut state[i * stride + at..][..N * LANES];
                    let row = row.as_chunks_mut::<LANES>().0;
                    for n in 0..N {
                        let new = fused(spread_float(*k), found[n], product(load_floats(&row[n]), decay));
                        store(new, &mut row[n]);
                        read[n] = fused(spread_float(*q), new, read[n]);
                        next[n] = fused(spread_float(*next_k), new, next[n]);
                    }
                }
                found = next;
                for n in 0..N {
                    store_first(read[n], &mut out[t * columns + at + n * LANES..][..LANES]);
                }
            }
        }

        $(#[$attribute])*
        pub(crate) fn delta_steps(steps: &[DeltaStep<'_>], stride: usize, state: &mut [f32], out: &mut [f32]) {
            let columns = out.len() / steps.len().max(1);
            let mut at = 0;
            while at + 4 * LANES <= columns {
                delta_columns::<4>(steps, at, stride, state, out);
                at += 4 * LANES;
            }
            while at + LANES <= columns {
                delta_columns::<1>(steps, at, stride, state, out);
                at += LANES;
            }
            // the same, a column at a time
            for at in at..columns {
                for (t, step) in steps.iter().enumerate() {
                    let (mut found, mut read) = (0.0f32, 0.0f32);
                    for (i, k) in step.k.iter().enumerate() {
                        found = k.mul_add(state[i * stride + at], found);
                    }
                    let found = step.beta * (step.v[at] - step.decay * found);
                    for (i, (k, q)) in step.k.iter().zip(step.q).enumerate() {
                        let state = &mut state[i * stride + at];
                        *state = k.mul_add(found, *state * step.decay);
                        read = q.mul_add(*state, read);
                    }
                    out[t * columns + at] = read;
                }
            }
        }

        /// Adds the values of some positions, each times its weight, to `out` times `shrink`.
        $(#[$attribute])*
        #[inline]
        fn add_values<const N: usize>(shrink: f32, weights: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
            let mut sums = [spread_float(0.0); N];
            let out = out.as_chunks_mut::<LANES>().0;
            for n in 0..N {
                sums[n] = product(load_floats(&out[n]), spread_float(shrink));
            }
            for (p, weight) in weights.iter().enumerate() {
                let row = &values[p * stride..][..N * LANES];
                for n in 0..N {
                    sums[n] = fused(spread_float(*weight), load_floats(first(&row[n * LANES..])), sums[n]);
                }
            }
            for n in 0..N {
                store(sums[n], &mut out[n]);
            }
        }

        /// Some positions of one query, whose largest score and sum of weights so far are in `seen`.
        $(#[$attribute])*
        #[inline]
        fn attend_to(a: &Attend<'_>, positions: std::ops::Range<usize>, seen: &mut Seen, out: &mut [f32]) {
            let dim = a.q.len();
            let Seen { top, total } = *seen;
            let mut scores = [0.0; POSITIONS];
            let scores = &mut scores[..positions.len()];
            let mut new_top = top;
            for (p, score) in positions.clone().zip(&mut *scores) {
                *score = dot(a.q, &a.keys[p * a.stride..][..dim]) * a.scale;
                new_top = if *score > new_top { *score } else { new_top };
            }
            let mut shrink = [top - new_top];
            exp_all(&mut shrink);
            scores.iter_mut().for_each(|score| *score -= new_top);
            exp_all(scores);
            *seen = Seen { top: new_top, total: scores.iter().fold(total * shrink[0], |total, weight| total + weight) };
            let values = &a.values[positions.start * a.stride..];
            let mut at = 0;
            while at + 8 * LANES <= dim {
                add_values::<8>(shrink[0], scores, &values[at..], a.stride, &mut out[at..]);
                at += 8 * LANES;
            }
            while at + LANES <= dim {
                add_values::<1>(shrink[0], scores, &values[at..], a.stride, &mut out[at..]);
                at += LANES;
            }
            for at in at..dim {
                let weighed = scores.iter().enumerate();
                out[at] = weighed.fold(out[at] * shrink[0], |sum, (p, w)| w.mul_add(values[p * a.stride + at], sum));
            }
        }

        /// Position by position for all queries, so that keys and values stay near.
        $(#[$attribute])*
        pub(crate) fn attend(queries: &[Attend<'_>], seen: &mut [Seen], out: &mut [f32]) {
            if queries.is_empty() {
                return;
            }
            let dim = out.len() / queries.len();
            let first = queries.iter().map(|a| a.first).min().unwrap_or(0);
            let end = queries.iter().map(|a| a.end).max().unwrap_or(0);
            for position in (first / POSITIONS * POSITIONS..end).step_by(POSITIONS) {
                let rows = out.chunks_exact_mut(dim).zip(&mut *seen);
                for (a, (out, seen)) in queries.iter().zip(rows) {
                    let positions = position.max(a.first)..a.end.min(position + POSITIONS);
                    if !positions.is_empty() {
                        attend_to(a, positions, seen, out);
                    }
                }
            }
        }

        /// `code * scale + bias` for the codes of each group.
        $(#[$attribute])*
        pub(crate) fn scale_codes(codes: &[u8], group: usize, scales: &[[f32; 2]], out: &mut [f32]) {
            let groups = codes.chunks_exact(group).zip(out.chunks_exact_mut(group));
            for ((codes, out), [scale, bias]) in groups.zip(scales) {
                let (scale, bias) = (spread_float(*scale), spread_float(*bias));
                let out = out.as_chunks_mut::<LANES>().0;
                for (codes, out) in codes.as_chunks::<LANES>().0.iter().zip(out) {
                    store(fused(to_floats(widen(codes)), scale, bias), out);
                }
            }
        }
    };
}
pub(crate) use float_kernels;
