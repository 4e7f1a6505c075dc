// The heads that a workgroup has of a token, before they are stored and as they will be read.

var<workgroup> own: array<vec4<f32>, 192>; // [key | value | query, 64 of four elements]
