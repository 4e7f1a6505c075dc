// The elements of one head, as a workgroup has them: before it turns them, or when they are done.

var<workgroup> y: array<f32, 256>;
