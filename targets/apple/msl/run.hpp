// What a compiled kernel and the runner know of each other. Included before metal_stdlib, whose address spaces are macros.
#pragma once
#include <cstdint>

namespace runner {

// A threadgroup, for one of its threads.
struct Workgroup {
    uint32_t place[3];     // threadgroup_position_in_grid
    char *memory;          // all its threadgroup memory
    char *const *buffers;  // by their [[buffer(n)]]
};

using Entry = void (*)(const Workgroup &, uint32_t thread);

// A kernel: making one lists it.
struct Kernel {
    uint32_t number;       // by which scripts name it
    const char *name;
    Entry entry;
    uint32_t memory_bytes; // of a threadgroup
    uint32_t threads;      // of a threadgroup
    const Kernel *next;

    Kernel(uint32_t number, const char *name, Entry entry, uint32_t memory_bytes, uint32_t threads);
};

} // namespace runner
