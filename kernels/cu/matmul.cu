// Products of quantized matrices with columns, for any number of them: y = W · x.
//
// A block makes 16 rows of up to `8 · TILES` columns; its warps share the columns of W by slabs, warp w takes slabs
// w, w + WARPS, … A column's sum is made in the same order whatever `TILES` is and whoever else is in the step, so its
// bits are the same, too:
//
//   for each slab of the warp, for each 32 columns of W:   sum = fma(scale · Σ codes, scale of inputs, sum)
//   then the sums of the warps, first to last; then upper and lower digit
//
// Integer products are exact. They begin at the bits of 1.5 · 2²³, less OFFSET times the sum of the inputs' codes, so that
// the end is a float: the sum plus 1.5 · 2²³, as long as it stays below 2²² (32 · 255 · 127 does).
#include "formats.cuh"
#include "inputs.cuh"

// Up to three matrices of one format with the same inputs, side by side.
struct Product {
    const uint8_t *weights;
    float *y;           // [columns][stride]
    int32_t rows;       // of y; weights have them rounded up to 16
    int32_t stride;
    int32_t row_tiles;
};
struct Products {
    Product of[3];
    Inputs inputs;
    int32_t cols;
    int32_t columns; // digits aside
};

static const float MAGIC = 12582912.0f; // 1.5 · 2²³

// Where the integer sum of codes begins whose inputs sum up to this.
template <class F> DEVICE int32_t begin(float sum) { return float_to_bits(F::OFFSET == 0 ? MAGIC : fmaf(-F::OFFSET, sum, MAGIC)); }

template <class F, int TILES> DEVICE void matmul(const Products &p) {
    const int warps = threads_in_block() / 32;
    int row_tile = block_x();
    Product m = p.of[0];
#pragma unroll
    for (int i = 1; i < 3; i++)
        if (row_tile >= m.row_tiles) {
            row_tile -= m.row_tiles;
            m = p.of[i];
        }
    const int first_tile = block_y() * TILES;
    const int pairs_all = (p.cols + 63) / 64, slabs = (pairs_all + PAIRS - 1) / PAIRS;
    const uint8_t *rows = m.weights + (int64_t)row_tile * pairs_all * F::PAIR_BYTES;

    float sum[TILES][4];
#pragma unroll
    for (int t = 0; t < TILES; t++) sum[t][0] = sum[t][1] = sum[t][2] = sum[t][3] = 0;
    F slab;
    int at = uniform(warp());
    if (at < slabs) slab.load(rows + (int64_t)at * PAIRS * F::PAIR_BYTES, min(PAIRS, pairs_all - at * PAIRS));
    let_next_start();
    wait_for_previous();
    // Inputs of a lane: 16 bytes of codes, two columns of scales and of sums.
    const uint32_t codes_offset = lane() * 16, scales_offset = TILE_SCALES + quad() * 8, sums_offset = TILE_SUMS + quad() * 16;
    const uint32_t pair_step = p.inputs.tiles * TILE_BYTES;
    const uint8_t *inputs = p.inputs.at + (uint32_t)first_tile * TILE_BYTES + (uint32_t)at * PAIRS * pair_step;
    while (at < slabs) {
        const int pairs = min(PAIRS, pairs_all - at * PAIRS);
        const uint8_t *pair_at = inputs;
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            if (i >= pairs) break;
            uint32_t a[2][4];
            slab.codes(i, a);
            float scale[2][2][2], least[2][2][2]; // block, half, row
#pragma unroll
            for (int b = 0; b < 2; b++)
#pragma unroll
                for (int h = 0; h < (F::HALVES ? 2 : 1); h++)
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        scale[b][h][r] = slab.scale(i, b, h, r);
                        least[b][h][r] = slab.min(i, b, h, r);
                    }
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                if (TILES > 1 && first_tile + t >= p.inputs.tiles) break;
                const uint4 codes = *(const uint4 *)(pair_at + codes_offset + t * TILE_BYTES);
#pragma unroll
                for (int b = 0; b < 2; b++) {
                    const float2 unit = *(const float2 *)(pair_at + scales_offset + t * TILE_BYTES + b * 32);
                    float4 sums = {0, 0, 0, 0}; // of halves: column, next column
                    if (F::OFFSET != 0 || F::MINS) sums = *(const float4 *)(pair_at + sums_offset + t * TILE_BYTES + b * 64);
                    const uint32_t b0 = b == 0 ? codes.x : codes.z, b1 = b == 0 ? codes.y : codes.w;
                    float part[4] = {0, 0, 0, 0};
                    int32_t d[4];
                    if (!F::HALVES) {
                        const float sum0 = sums.x + sums.y, sum1 = sums.z + sums.w;
                        const int32_t begin0 = begin<F>(sum0);
                        const int32_t begin1 = begin<F>(sum1);
                        if (F::SIGNED) mma_signed(d, a[b], b0, b1, begin0, begin1);
                        else mma_unsigned(d, a[b], b0, b1, begin0, begin1);
#pragma unroll
                        for (int j = 0; j < 4; j++) {
                            part[j] = scale[b][0][j >> 1] * (bits_to_float(d[j]) - MAGIC);
                            if (F::MINS) part[j] = fmaf(-least[b][0][j >> 1], (j & 1) ? sum1 : sum0, part[j]);
                        }
                    } else {
#pragma unroll
                        for (int h = 0; h < 2; h++) {
                            const float sum0 = h ? sums.y : sums.x, sum1 = h ? sums.w : sums.z;
                            const int32_t begin0 = begin<F>(sum0);
                            const int32_t begin1 = begin<F>(sum1);
                            if (F::SIGNED) mma_signed_half(d, a[b][2 * h], a[b][2 * h + 1], h ? b1 : b0, begin0, begin1);
                            else mma_unsigned_half(d, a[b][2 * h], a[b][2 * h + 1], h ? b1 : b0, begin0, begin1);
#pragma unroll
                            for (int j = 0; j < 4; j++) {
                                part[j] = fmaf(scale[b][h][j >> 1], bits_to_float(d[j]) - MAGIC, part[j]);
                                if (F::MINS) part[j] = fmaf(-least[b][h][j >> 1], (j & 1) ? sum1 : sum0, part[j]);
                            }
                        }
                    }
#pragma unroll
                    for (int j = 0; j < 4; j++) sum[t][j] = fmaf(part[j], (j & 1) ? unit.y : unit.x, sum[t][j]);
                }
            }
            pair_at += pair_step;
        }
        at += warps;
        inputs += (uint32_t)(warps * PAIRS) * pair_step;
        if (at < slabs) slab.load(rows + (int64_t)at * PAIRS * F::PAIR_BYTES, min(PAIRS, pairs_all - at * PAIRS));
    }

    float *sums = (float *)shared_memory(); // [warp][column][16 rows]
    const int columns = 8 * TILES;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[(warp() * columns + t * 8 + quad() * 2 + (j & 1)) * 16 + group() + 8 * (j >> 1)] = sum[t][j];
    sync_block();
    const int digits = p.inputs.digits;
    for (int i = thread_index(); i < columns / digits * 16; i += threads_in_block()) {
        const int row = row_tile * 16 + (i & 15), column = first_tile * 8 / digits + (i >> 4);
        if (row >= m.rows || column >= p.columns) continue;
        float y = 0;
        for (int digit = 0; digit < digits; digit++) {
            float whole = 0;
            for (int w = 0; w < warps; w++) whole += sums[(w * columns + (i >> 4) * digits + digit) * 16 + (i & 15)];
            y += whole;
        }
        m.y[(int64_t)column * m.stride + row] = y;
    }
}

#define MATMUL(F, TILES, BLOCKS)                                                                                              \
    KERNEL(256, BLOCKS) matmul_##F##_##TILES(const Products p) { matmul<F, TILES>(p); }                                       \
    ENTRY(matmul_##F##_##TILES)
#define MATMULS(F) MATMUL(F, 1, 3) MATMUL(F, 2, 2) MATMUL(F, 4, 2) MATMUL(F, 8, 1)

MATMULS(Q4_0)
MATMULS(Q8_0)
MATMULS(Q4_K)
MATMULS(Q5_K)
MATMULS(Q6_K)
MATMULS(Plane)
