// Weights of 16 rows in the order of the fragments that take them: what `outstation_kernels::cuda::pack` writes.
//
// A *slab* is 16 rows by 256 columns; the last of a row may be shorter, in steps of 64 columns (*pairs* of 32), for formats
// whose blocks are 32 weights. Each format has
//
//   PAIR_BYTES     of 16 rows by 64 columns, on average
//   OFFSET         what codes are above the weights they stand for
//   HALVES         whether 16 columns share a scale, rather than 32
//   MINS           whether weight = scale · code − min
//   load           the slab as this lane needs it, into registers
//   codes          of one pair: fragments a of both 32 columns
//   scales, mins   of one 32 columns (or the halves of it), for rows `group` and `group + 8`
//
// Nothing grows: a slab has the bytes of its 16 rows in a GGUF file.
#pragma once
#include "device.cuh"

static const int PAIRS = 4; // in a whole slab

DEVICE uint32_t low_nibbles(uint32_t x) { return x & 0x0f0f0f0fu; }
DEVICE uint32_t high_nibbles(uint32_t x) { return (x >> 4) & 0x0f0f0f0fu; }
DEVICE uint32_t word(const uint4 &x, int i) { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; }
DEVICE float byte_to_float(uint32_t x, int i) { return (float)((x >> (8 * i)) & 255); }
DEVICE float signed_byte_to_float(uint32_t x, int i) { return (float)(int8_t)(x >> (8 * i)); }

// Bytes of a lane in a run of 512, 16 each.
DEVICE const uint8_t *mine(const uint8_t *at) { return at + lane() * 16; }

// [pair][codes: 32 lanes × 16 bytes, low nibbles are the first 32 columns][scales: 16 rows × 2 f16]
struct Q4_0 {
    static const int PAIR_BYTES = 16 * 36, OFFSET = 8;
    static const bool HALVES = false, MINS = false, SIGNED = false;
    uint4 c[PAIRS];
    uint32_t d[PAIRS][2];
    DEVICE_MEMBER void load(const uint8_t *slab, int pairs) {
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            if (i >= pairs) break;
            const uint8_t *pair = slab + i * PAIR_BYTES;
            c[i] = load_weights(mine(pair));
            d[i][0] = load_weights_4(pair + 512 + group() * 4);
            d[i][1] = load_weights_4(pair + 544 + group() * 4);
        }
    }
    DEVICE_MEMBER void codes(int pair, uint32_t (&a)[2][4]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[0][i] = low_nibbles(word(c[pair], i));
            a[1][i] = high_nibbles(word(c[pair], i));
        }
    }
    DEVICE_MEMBER float scale(int pair, int block, int, int row) const { return half_to_float((uint16_t)(d[pair][row] >> (16 * block))); }
    DEVICE_MEMBER float min(int, int, int, int) const { return 0; }
};

// [pair][codes: 2 × 32 lanes × 16 bytes][scales: 16 rows × 2 f16]
struct Q8_0 {
    static const int PAIR_BYTES = 16 * 68, OFFSET = 0;
    static const bool HALVES = false, MINS = false, SIGNED = true;
    uint4 c[PAIRS][2];
    uint32_t d[PAIRS][2];
    DEVICE_MEMBER void load(const uint8_t *slab, int pairs) {
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            if (i >= pairs) break;
            const uint8_t *pair = slab + i * PAIR_BYTES;
            c[i][0] = load_weights(mine(pair));
            c[i][1] = load_weights(mine(pair + 512));
            d[i][0] = load_weights_4(pair + 1024 + group() * 4);
            d[i][1] = load_weights_4(pair + 1056 + group() * 4);
        }
    }
    DEVICE_MEMBER void codes(int pair, uint32_t (&a)[2][4]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[0][i] = word(c[pair][0], i);
            a[1][i] = word(c[pair][1], i);
        }
    }
    DEVICE_MEMBER float scale(int pair, int block, int, int row) const { return half_to_float((uint16_t)(d[pair][row] >> (16 * block))); }
    DEVICE_MEMBER float min(int, int, int, int) const { return 0; }
};

// What Q4_K and Q5_K share: a row's d, dmin and 12 bytes of scales and mins, as in the file.
struct KScales {
    uint4 s[2];
    DEVICE_MEMBER void load(const uint8_t *at) {
        s[0] = load_weights(at + group() * 16);
        s[1] = load_weights(at + 128 + group() * 16);
    }
    // d · x for a byte x: fma(2²³ + x, d, −2²³ · d) is exact, and there is no slow conversion in it.
    DEVICE_MEMBER static float times(uint32_t bytes, int i, float d) { return fmaf(byte_above_2_23(bytes, i), d, -8388608.0f * d); }
    // Scales of the first or last four blocks, one a byte; then mins. Source: `get_scale_min_k4` of ggml, four at once.
    DEVICE_MEMBER uint32_t scales(int row, int last) const {
        const uint4 &x = s[row];
        return last ? (x.w & 0x0f0f0f0fu) | ((x.y >> 2) & 0x30303030u) : x.y & 0x3f3f3f3fu;
    }
    DEVICE_MEMBER uint32_t mins(int row, int last) const {
        const uint4 &x = s[row];
        return last ? ((x.w >> 4) & 0x0f0f0f0fu) | ((x.z >> 2) & 0x30303030u) : x.z & 0x3f3f3f3fu;
    }
    DEVICE_MEMBER float scale(int block, int row) const { return times(scales(row, block >> 2), block & 3, half_to_float((uint16_t)s[row].x)); }
    DEVICE_MEMBER float min(int block, int row) const { return times(mins(row, block >> 2), block & 3, half_to_float((uint16_t)(s[row].x >> 16))); }
};

// [16 rows × (d, dmin, 12 bytes of scales)][pair][codes: 32 lanes × 16 bytes]
struct Q4_K {
    static const int PAIR_BYTES = 16 * 36, OFFSET = 0;
    static const bool HALVES = false, MINS = true, SIGNED = false;
    KScales k;
    uint4 c[PAIRS];
    DEVICE_MEMBER void load(const uint8_t *slab, int) {
        k.load(slab);
#pragma unroll
        for (int i = 0; i < PAIRS; i++) c[i] = load_weights(mine(slab + 256 + i * 512));
    }
    DEVICE_MEMBER void codes(int pair, uint32_t (&a)[2][4]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[0][i] = low_nibbles(word(c[pair], i));
            a[1][i] = high_nibbles(word(c[pair], i));
        }
    }
    DEVICE_MEMBER float scale(int pair, int block, int, int row) const { return k.scale(2 * pair + block, row); }
    DEVICE_MEMBER float min(int pair, int block, int, int row) const { return k.min(2 * pair + block, row); }
};

// As Q4_K; behind the codes their fifth bits: 32 lanes × a word for each pair, whose byte i has bit r for word r of a
// in the first 32 columns, and bit 4 + r in the others.
struct Q5_K {
    static const int PAIR_BYTES = 16 * 44, OFFSET = 0;
    static const bool HALVES = false, MINS = true, SIGNED = false;
    KScales k;
    uint4 c[PAIRS], high;
    DEVICE_MEMBER void load(const uint8_t *slab, int) {
        k.load(slab);
#pragma unroll
        for (int i = 0; i < PAIRS; i++) c[i] = load_weights(mine(slab + 256 + i * 512));
        high = load_weights(mine(slab + 256 + PAIRS * 512));
    }
    DEVICE_MEMBER void codes(int pair, uint32_t (&a)[2][4]) const {
        uint32_t bits = word(high, pair);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[0][i] = low_nibbles(word(c[pair], i)) | (((bits >> i) & 0x01010101u) << 4);
            a[1][i] = high_nibbles(word(c[pair], i)) | (((bits >> (i + 4)) & 0x01010101u) << 4);
        }
    }
    DEVICE_MEMBER float scale(int pair, int block, int, int row) const { return k.scale(2 * pair + block, row); }
    DEVICE_MEMBER float min(int pair, int block, int, int row) const { return k.min(2 * pair + block, row); }
};

// [pair][codes: 32 lanes × 16 bytes][upper bits: 2 × 32 lanes × 16 bytes][scales: 16 rows × 16 i8][16 rows × f16]
// A word of upper bits is that of 32 columns: its byte i has bits 2r and 2r + 1 for word r of a.
struct Q6_K {
    static const int PAIR_BYTES = 840, OFFSET = 32;
    static const bool HALVES = true, MINS = false, SIGNED = false;
    uint4 c[PAIRS], high[2], s[2];
    float d[2];
    DEVICE_MEMBER void load(const uint8_t *slab, int) {
#pragma unroll
        for (int i = 0; i < PAIRS; i++) c[i] = load_weights(mine(slab + i * 512));
        high[0] = load_weights(mine(slab + 2048));
        high[1] = load_weights(mine(slab + 2560));
        s[0] = load_weights(slab + 3072 + group() * 16);
        s[1] = load_weights(slab + 3200 + group() * 16);
        d[0] = half_to_float(*(const uint16_t *)(slab + 3328 + group() * 2));
        d[1] = half_to_float(*(const uint16_t *)(slab + 3344 + group() * 2));
    }
    DEVICE_MEMBER void codes(int pair, uint32_t (&a)[2][4]) const {
        uint32_t first = word(high[pair >> 1], 2 * (pair & 1)), last = word(high[pair >> 1], 2 * (pair & 1) + 1);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[0][i] = low_nibbles(word(c[pair], i)) | (((first >> (2 * i)) & 0x03030303u) << 4);
            a[1][i] = high_nibbles(word(c[pair], i)) | (((last >> (2 * i)) & 0x03030303u) << 4);
        }
    }
    DEVICE_MEMBER float scale(int pair, int block, int half, int row) const { return d[row] * signed_byte_to_float(word(s[row], pair), 2 * block + half); }
    DEVICE_MEMBER float min(int, int, int, int) const { return 0; }
};

// Every other format of codes, unpacked: [pair][codes: 2 × 32 lanes × 16 signed bytes][16 rows × 4 f32 scales][and mins]
// Scales and mins are those of 16 columns each.
struct Plane {
    static const int PAIR_BYTES = 16 * 96, OFFSET = 0;
    static const bool HALVES = true, MINS = true, SIGNED = true;
    const uint8_t *at; // it is large, so that a pair is loaded when its turn comes
    DEVICE_MEMBER void load(const uint8_t *slab, int) { at = slab; }
    DEVICE_MEMBER void codes(int pair, uint32_t (&a)[2][4]) const {
#pragma unroll
        for (int b = 0; b < 2; b++) {
            uint4 x = load_weights(mine(at + pair * PAIR_BYTES + 512 * b));
            a[b][0] = x.x, a[b][1] = x.y, a[b][2] = x.z, a[b][3] = x.w;
        }
    }
    DEVICE_MEMBER float scale(int pair, int block, int half, int row) const {
        return bits_to_float(load_weights_4(at + pair * PAIR_BYTES + 1024 + 128 * row + group() * 16 + 8 * block + 4 * half));
    }
    DEVICE_MEMBER float min(int pair, int block, int half, int row) const {
        return bits_to_float(load_weights_4(at + pair * PAIR_BYTES + 1280 + 128 * row + group() * 16 + 8 * block + 4 * half));
    }
};
