// The table that codes are looked up in, one a device. Its binding is behind those of every product.

@group(0) @binding(15) var<storage, read> codebook: array<vec2<u32>>;
