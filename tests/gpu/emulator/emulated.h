// A GPU's words for a processor: the same kernels, compiled by a C++ compiler, a fiber for each thread of a block.
//
// A fiber runs until it waits for others, of its warp or of its block; so what is between two barriers runs in an order
// that no GPU would choose, and that changes with EMULATED_SEED: a missing barrier shows. Shared memory starts as NaN.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define DEVICE static inline
#define DEVICE_MEMBER inline
#define KERNEL(threads, blocks) extern "C" void
#define ENTRY(name) static const emulated::Entry entry_##name(#name, name);

using std::max;
using std::min;

struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

namespace emulated {
// What a fiber sees of its launch.
struct Place {
    int thread, threads, block_x, block_y, blocks_y;
    uint8_t *shared;
};
extern thread_local Place place;

void sync_block();
void sync_warp();
// Six words of each lane of the warp, all of this one collective.
typedef uint32_t Words[6];
const Words *exchange(const Words &mine);

// A kernel takes one struct: `launch` calls it with a copy of the argument.
struct Entry {
    template <class A> Entry(const char *name, void (*kernel)(A)) {
        add(name, (void (*)())kernel, sizeof(A), [](void (*kernel)(), void **arguments) { ((void (*)(A))kernel)(*(std::remove_const_t<A> *)arguments[0]); });
    }
    typedef void (*Call)(void (*kernel)(), void **arguments);
    static void add(const char *name, void (*kernel)(), size_t argument_bytes, Call call);
};
} // namespace emulated

DEVICE uint8_t *shared_memory() { return emulated::place.shared; }
DEVICE int thread_index() { return emulated::place.thread; }
DEVICE int threads_in_block() { return emulated::place.threads; }
DEVICE int block_x() { return emulated::place.block_x; }
DEVICE int block_y() { return emulated::place.block_y; }
DEVICE int blocks_y() { return emulated::place.blocks_y; }
DEVICE void sync_block() { emulated::sync_block(); }
DEVICE void sync_warp() { emulated::sync_warp(); }
DEVICE int uniform(int x) { return x; }
DEVICE void let_next_start() {}
DEVICE void wait_for_previous() {}

DEVICE uint32_t float_to_bits(float x) {
    uint32_t y;
    memcpy(&y, &x, 4);
    return y;
}
DEVICE float bits_to_float(uint32_t x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}
DEVICE uint32_t shuffle_xor(uint32_t x, int mask) {
    const emulated::Words mine = {x};
    return emulated::exchange(mine)[(thread_index() & 31) ^ mask][0];
}
DEVICE float shuffle_xor(float x, int mask) { return bits_to_float(shuffle_xor(float_to_bits(x), mask)); }

// A block's threads take turns on one thread of the processor.
DEVICE void add_shared(uint32_t *at, uint32_t x) { *at += x; }
DEVICE void add_shared(uint64_t *at, uint64_t x) { *at += x; }
DEVICE uint64_t multiply_high(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }

DEVICE float exp2_fast(float x) { return exp2f(x); }
DEVICE uint4 load_weights(const void *at) { return *(const uint4 *)at; }
DEVICE uint32_t load_weights_4(const void *at) { return *(const uint32_t *)at; }

DEVICE float half_to_float(uint16_t x) {
    _Float16 y;
    memcpy(&y, &x, 2);
    return (float)y;
}
DEVICE uint16_t float_to_half(float x) {
    _Float16 y = (_Float16)x;
    uint16_t z;
    memcpy(&z, &y, 2);
    return z;
}
DEVICE uint32_t float_to_halves(float low, float high) { return float_to_half(low) | (uint32_t)float_to_half(high) << 16; }

DEVICE float byte_above_2_23(uint32_t x, int i) { return bits_to_float(0x4b000000u | ((x >> (8 * i)) & 255)); }

// Each lane gives its fragments, and sums its own four numbers of d: rows `lane / 4` and 8 below, two columns.
template <bool SIGNED> DEVICE void mma_bytes(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int halves, const int32_t (&c)[2]) {
    const emulated::Words mine = {a[0], a[1], a[2], a[3], b0, b1};
    const emulated::Words *all = emulated::exchange(mine);
    const int lane = thread_index() & 31;
    for (int j = 0; j < 4; j++) {
        const int row = lane / 4, column = lane % 4 * 2 + (j & 1);
        int32_t sum = c[j & 1];
        for (int half = 0; half < halves; half++)
            for (int quad = 0; quad < 4; quad++) {
                const uint32_t x = all[row * 4 + quad][(j >> 1) + 2 * half], y = all[column * 4 + quad][4 + half];
                for (int byte = 0; byte < 32; byte += 8)
                    sum += (SIGNED ? (int)(int8_t)(x >> byte) : (int)(uint8_t)(x >> byte)) * (int8_t)(y >> byte);
            }
        d[j] = sum;
    }
}
DEVICE void mma_unsigned(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int32_t c0, int32_t c1) {
    mma_bytes<false>(d, a, b0, b1, 2, {c0, c1});
}
DEVICE void mma_signed(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int32_t c0, int32_t c1) {
    mma_bytes<true>(d, a, b0, b1, 2, {c0, c1});
}
DEVICE void mma_unsigned_half(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0, int32_t c0, int32_t c1) {
    mma_bytes<false>(d, {a0, a1, 0, 0}, b0, 0, 1, {c0, c1});
}
DEVICE void mma_signed_half(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0, int32_t c0, int32_t c1) {
    mma_bytes<true>(d, {a0, a1, 0, 0}, b0, 0, 1, {c0, c1});
}
DEVICE void mma_halves(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const emulated::Words mine = {a[0], a[1], a[2], a[3], b0, b1};
    const emulated::Words *all = emulated::exchange(mine);
    const int lane = thread_index() & 31;
    for (int j = 0; j < 4; j++) {
        const int row = lane / 4, column = lane % 4 * 2 + (j & 1);
        float sum = c[j];
        for (int half = 0; half < 2; half++)
            for (int quad = 0; quad < 4; quad++) {
                const uint32_t x = all[row * 4 + quad][(j >> 1) + 2 * half], y = all[column * 4 + quad][4 + half];
                sum += half_to_float((uint16_t)x) * half_to_float((uint16_t)y) + half_to_float((uint16_t)(x >> 16)) * half_to_float((uint16_t)(y >> 16));
            }
        c[j] = sum;
    }
}
