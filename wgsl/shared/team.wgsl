// A team of `lanes` threads shares rows of weights; each thread takes every lanes-th unit of their columns (see
// unit_of_block.wgsl).

override lanes: u32 = 32u; // decided by the columns alone: it is the order of additions
override threads: u32 = 64u; // of a workgroup: any multiple of lanes
override sums: u32 = 4u; // of a thread
override kept: u32 = sums * (threads + 1u); // one more, so that rows lie in different banks

var<workgroup> partial: array<f32, kept>;

fn keep(i: u32, local: u32, sum: f32) {
    partial[i * (threads + 1u) + local] = sum;
}

// Sum `i` of a team.
fn total(i: u32, team: u32) -> f32 {
    let start = i * (threads + 1u) + team * lanes;
    var sum = vec4<f32>();
    for (var lane = 0u; lane < lanes; lane += 4u) {
        let at = start + lane;
        sum += vec4<f32>(partial[at], partial[at + 1u], partial[at + 2u], partial[at + 3u]);
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

// Keeps the first `sums` of `all`.
fn keep_all(local: u32, all: array<f32, 8>) {
    keep(0u, local, all[0]);
    if sums > 1u {
        keep(1u, local, all[1]);
    }
    if sums > 2u {
        keep(2u, local, all[2]);
        keep(3u, local, all[3]);
    }
    if sums > 4u {
        keep(4u, local, all[4]);
        keep(5u, local, all[5]);
        keep(6u, local, all[6]);
        keep(7u, local, all[7]);
    }
}
