// Turns a head of `dim` elements, which a workgroup of 64 threads or more has in `y`, or turns it back. The thread of an
// element need not be the one that set it.

//import head
//import turn_quads

fn turn_head(local: u32, dim: u32, back: bool) {
    workgroupBarrier();
    let is_turned = local < dim / 4u;
    if is_turned {
        own[local] = vec4<f32>(y[4u * local], y[4u * local + 1u], y[4u * local + 2u], y[4u * local + 3u]);
    }
    turn_quads(local, is_turned, dim / 4u, back);
    if is_turned {
        let v = own[local];
        y[4u * local] = v.x;
        y[4u * local + 1u] = v.y;
        y[4u * local + 2u] = v.z;
        y[4u * local + 3u] = v.w;
    }
    workgroupBarrier();
}
