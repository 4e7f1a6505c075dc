// Sum over the threads of a workgroup, the same for all of them: 32 threads add up a share each. Two barriers, where a
// tree takes one for every halving.

override threads: u32 = 256u; // a multiple of 32

var<workgroup> of_thread: array<f32, threads>;
var<workgroup> of_lane: array<f32, 32>;

fn sum_over_threads(local: u32, value: f32) -> f32 {
    of_thread[local] = value;
    workgroupBarrier();
    if local < 32u {
        var sum = 0.0;
        for (var i = local; i < threads; i += 32u) {
            sum += of_thread[i];
        }
        of_lane[local] = sum;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < 32u; i++) {
        sum += of_lane[i];
    }
    return sum;
}
