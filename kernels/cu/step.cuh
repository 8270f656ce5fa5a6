// What a step is, as the host writes it: `outstation_kernels::cuda::step` has the same structs.
#pragma once
#include "device.cuh"

// One token of one sequence.
struct Column {
    uint32_t token, position;
    uint32_t block, offset;          // where its key and value go
    uint32_t table;                  // start of its sequence's block table
    uint32_t part_start, part_count; // partial results of its attention
    uint32_t from;                   // which column of the step it is, where only some go on
};

static const int BLOCK_POSITIONS = 32;

// Where keys and values of one layer lie. Planes of a head in a block have the positions of that block; `head_dim` is
// rounded up to 32 with zeros.
//
//   f16   keys [32][head_dim] f16, values [head_dim][32] f16
//   q8_0  keys [32][head_dim] i8, then [32][head_dim / 32] f16;  values [head_dim][32] i8, then [head_dim / 32][32] f16
struct Cache {
    uint8_t *keys, *values;
    int32_t kv_heads, head_dim, plane_bytes;
    int32_t bytes; // of an element: 2 for f16, 1 for q8_0
};

DEVICE int64_t plane(const Cache &cache, uint32_t block, int head) { return ((int64_t)block * cache.kv_heads + head) * cache.plane_bytes; }
