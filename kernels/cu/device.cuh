// The words of the machine that kernels use, so that the same source compiles for a GPU and for the emulator of
// tests/gpu, which gives each of them another body.
#pragma once
#include <stdint.h>

#ifdef EMULATED
#include "emulated.h"
#else

#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
// Makes a kernel known to the emulator by its name; the driver finds it by itself.
#define ENTRY(name)

extern __shared__ __align__(16) uint8_t shared_bytes[];

DEVICE uint8_t *shared_memory() { return shared_bytes; }
DEVICE int thread_index() { return threadIdx.x; }
DEVICE int threads_in_block() { return blockDim.x; }
DEVICE int block_x() { return blockIdx.x; }
DEVICE int block_y() { return blockIdx.y; }
DEVICE int blocks_y() { return gridDim.y; }
DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE uint32_t shuffle_xor(uint32_t x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE void add_shared(uint32_t *at, uint32_t x) { atomicAdd(at, x); }
// By halves, which shared memory adds by itself; for the whole of it a thread would try until nobody else does.
DEVICE void add_shared(uint64_t *at, uint64_t x) {
    uint32_t *words = (uint32_t *)at;
    const uint32_t low = (uint32_t)x, before = atomicAdd(words, low);
    atomicAdd(words + 1, (uint32_t)(x >> 32) + (before + low < before ? 1u : 0u));
}
DEVICE uint64_t multiply_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }
// The same number, which all lanes have: now the compiler knows, and keeps what follows from it once for the warp.
DEVICE int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }
DEVICE float bits_to_float(uint32_t x) { return __uint_as_float(x); }
DEVICE uint32_t float_to_bits(float x) { return __float_as_uint(x); }

// 2ˣ; 0 for −∞.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Starts what was launched after this kernel, whose blocks then wait in `wait_for_previous`. Before Hopper: nothing.
DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Waits until all that earlier kernels wrote can be read.
DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Weights are read once a step: they go past L1. `volatile` keeps them before `wait_for_previous`.
DEVICE uint4 load_weights(const void *at) {
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(at));
    return x;
}
DEVICE uint32_t load_weights_4(const void *at) {
    uint32_t x;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(x) : "l"(at));
    return x;
}

// 2²³ + byte i of x.
DEVICE float byte_above_2_23(uint32_t x, int i) { return __uint_as_float(__byte_perm(x, 0x4b000000u, 0x7440 + i)); }

DEVICE float half_to_float(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
DEVICE uint16_t float_to_half(float x) {
    uint16_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
// `low` in the lower half.
DEVICE uint32_t float_to_halves(float low, float high) {
    uint32_t y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// d = c + a · b for a [16, 32] of unsigned bytes and b [32, 8] of signed ones; c has a number for each column.
DEVICE void mma_unsigned(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int32_t c0, int32_t c1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %10, %11};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c0), "r"(c1));
}
// The same with signed bytes in a.
DEVICE void mma_signed(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int32_t c0, int32_t c1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %10, %11};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c0), "r"(c1));
}
// The same for a [16, 16] and b [16, 8].
DEVICE void mma_unsigned_half(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0, int32_t c0, int32_t c1) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %7, %8};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a0), "r"(a1), "r"(b0), "r"(c0), "r"(c1));
}
DEVICE void mma_signed_half(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0, int32_t c0, int32_t c1) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %7, %8};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a0), "r"(a1), "r"(b0), "r"(c0), "r"(c1));
}
// c += a · b for a [16, 16] and b [16, 8] of f16.
DEVICE void mma_halves(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// Lanes of a warp, and where each stands in the fragments of a 16-row product: rows `group` and `group + 8`, and four
// bytes (or two numbers) out of each sixteen (or eight) columns, or columns `2 · quad` and the next of the result.
//
//   a [16, 32] bytes  word 0: row group, columns 4·quad..  1: row group + 8  2: row group, 16 + 4·quad..  3: both
//   b [32, 8] bytes   word 0: rows 4·quad.., column group  1: rows 16 + 4·quad..
//   c [16, 8]         0: row group, column 2·quad  1: the next column  2, 3: row group + 8
//
// Source: PTX ISA, matrix fragments for mma.m16n8k32 and mma.m16n8k16.
DEVICE int lane() { return thread_index() & 31; }
DEVICE int warp() { return thread_index() >> 5; }
DEVICE int group() { return lane() >> 2; }
DEVICE int quad() { return lane() & 3; }

DEVICE uint64_t shuffle_xor(uint64_t x, int mask) {
    return shuffle_xor((uint32_t)x, mask) | (uint64_t)shuffle_xor((uint32_t)(x >> 32), mask) << 32;
}

// Over a warp, in an order of its own that never changes.
DEVICE float warp_sum(float x) {
    for (int mask = 16; mask > 0; mask >>= 1) x += shuffle_xor(x, mask);
    return x;
}
DEVICE float warp_max(float x) {
    for (int mask = 16; mask > 0; mask >>= 1) x = fmaxf(x, shuffle_xor(x, mask));
    return x;
}

// Over a block of whole warps; `space` has a float for each warp, and may be used again after the next barrier.
DEVICE float block_sum(float x, float *space) {
    x = warp_sum(x);
    if (lane() == 0) space[warp()] = x;
    sync_block();
    float sum = 0;
    for (int i = 0; i < threads_in_block() / 32; i++) sum += space[i];
    sync_block();
    return sum;
}
