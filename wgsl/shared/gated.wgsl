// SwiGLU of a row whose gate and up lie side by side, in a shader with `gate_up: array<f32>`, `hidden: array<u32>` and the
// parameters `width`, `gate_up_offset`, `gate_up_stride` and `hidden_stride`.
// hidden[t, i] = silu(gate_up[t, i]) * gate_up[t, width + i], in 8 bits where `pack` is 1

//import quantise

override pack: u32 = 0u;

fn gated(token: u32, i: u32) -> f32 {
    let at = params.gate_up_offset + token * params.gate_up_stride + i;
    let gate = gate_up[at];
    return gate / (1.0 + exp(-gate)) * gate_up[at + params.width];
}

// Writes element `i`, in 8 bits word `i`, of a token's row. All threads of a workgroup call it together, with one `i` after
// the other from a multiple of 8 on.
fn write_gated(local: u32, token: u32, i: u32) {
    let row = token * params.hidden_stride;
    if pack == 0u {
        if i < params.width {
            hidden[row + i] = bitcast<u32>(gated(token, i));
        }
        return;
    }
    let words = params.width / 4u;
    let j = i % 8u;
    let c = min(i, words - 1u) / 8u * 32u + first_column(j);
    let v = vec4<f32>(
        gated(token, c), gated(token, c + interleave),
        gated(token, c + 2u * interleave), gated(token, c + 3u * interleave),
    );
    let q = quantise_group(local, v);
    if i < words {
        hidden[row + i] = q.word;
        if j == 0u {
            hidden[row + words + i / 4u] = bitcast<u32>(q.scale);
            hidden[row + words + i / 4u + 1u] = bitcast<u32>(q.sum);
        }
    }
}
