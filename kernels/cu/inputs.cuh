// Inputs of products: columns of f32 rounded to bytes, in the order of the fragments that take them.
//
// 32 values of a column share a scale: value = scale · code. A column has one *digit* of 8 bits, or two, which lie as two
// columns beside each other: value = 256 · scale · upper + scale · lower. Columns stand in *tiles* of eight; 64 values of
// a tile lie together, so that a product walks with one address:
//
//   [cols / 64][tile]   codes   [32 lanes][16 bytes]   words 0 and 1 of b for 32 rows, then those of the next 32
//                       scales  [2][8 columns]         f32, of 32 values each
//                       sums    [2][8 columns][2]      f32: the sums of 16 codes each, which are integers
//
// `cols` is rounded up to 64: what is past the end is zero.
#pragma once
#include "device.cuh"

struct Inputs {
    uint8_t *at;
    int32_t tiles;  // in memory, of eight columns each
    int32_t digits; // 1 or 2
};

// Bytes of 64 values of a tile, and where scales and sums stand in them.
static const int TILE_BYTES = 704, TILE_SCALES = 512, TILE_SUMS = 576;

// Rounds 32 values of a column, one a lane. All lanes call it; `block` counts 32 values.
DEVICE void store_block(const Inputs &to, int column, int block, float x) {
    // fmaxf drops a NaN, so that must be looked for.
    float top = warp_max(fabsf(x));
    float bad = warp_sum(x - x); // 0, or NaN where a value is not finite
    float code_max = to.digits == 1 ? 127.0f : 32639.0f;
    float scale = bad == 0.0f ? top / code_max : bad;
    float inverse = top > 0.0f ? code_max / top : 0.0f;
    // The smallest magnitudes have no inverse in f32.
    int32_t code = inverse < 3.0e38f && bad == 0.0f ? (int32_t)rintf(x * inverse) : 0;
    for (int digit = 0; digit < to.digits; digit++) {
        int32_t part = code;
        float unit = scale;
        if (to.digits == 2) {
            int32_t upper = (code + 128) >> 8;
            part = digit == 0 ? upper : code - 256 * upper;
            unit = digit == 0 ? 256.0f * scale : scale;
        }
        int at = column * to.digits + digit;
        uint32_t word = (uint32_t)(part & 255) << (8 * (lane() & 3));
        word |= shuffle_xor(word, 1);
        word |= shuffle_xor(word, 2);
        float sum = (float)part;
        for (int mask = 8; mask > 0; mask >>= 1) sum += shuffle_xor(sum, mask);
        int k = lane(), row = (at & 7) * 4 + ((k & 15) >> 2);
        uint8_t *tile = to.at + ((int64_t)(block >> 1) * to.tiles + (at >> 3)) * TILE_BYTES;
        float *scales = (float *)(tile + TILE_SCALES) + (block & 1) * 8, *sums = (float *)(tile + TILE_SUMS) + (block & 1) * 16;
        if ((k & 3) == 0) *(uint32_t *)(tile + row * 16 + (block & 1) * 8 + (k >> 4) * 4) = word;
        if ((k & 15) == 0) sums[(at & 7) * 2 + (k >> 4)] = sum;
        if (k == 0) scales[at & 7] = unit;
    }
}
