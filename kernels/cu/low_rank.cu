// What adapters add to products: y += scale · B (A x), for each column its own factors. Those lie as
// `outstation_kernels::ops::LowRank` has them, so that a place of the host is copied as it is:
//
//   A   scales [rank] f32, codes [rank][cols] i8
//   B   panels of 64 outputs: scales [rank] f32, codes [rank][64] i8
#include "device.cuh"

// Both factors of one matrix; no rank where nothing is added.
struct Factors {
    const uint8_t *a, *b;
    int32_t rank;
    float scale;
    uint64_t unused;
};

// Up to three products with the same input.
struct LowRank {
    const float *x;           // [column][cols]
    const uint32_t *places;   // [column]: whose factors, or NO_PLACE
    const Factors *factors;   // [place][a layer's matrices, of all layers]
    float *between;           // [column][product][rank_max]
    float *y;                 // [column][stride]
    int32_t first[3];         // of y: where a product begins
    int32_t rows[3];
    int32_t matrices[3];      // which of a place's
    int32_t cols, stride, rank_max, matrices_count, products;
};

static const uint32_t NO_PLACE = 0xffffffffu;
static const int PANEL = 64;

// One of the products: indices that are known keep its numbers in registers.
struct Product {
    int first, rows, matrix;
};
DEVICE Product product_of(const LowRank &l, int index) {
    Product p = {l.first[0], l.rows[0], l.matrices[0]};
#pragma unroll
    for (int i = 1; i < 3; i++)
        if (index == i) p = {l.first[i], l.rows[i], l.matrices[i]};
    return p;
}

DEVICE const Factors *find(const LowRank &l, int column, int matrix) {
    const uint32_t place = l.places[column];
    return place == NO_PLACE ? nullptr : l.factors + (int64_t)place * l.matrices_count + matrix;
}

DEVICE float *between(const LowRank &l, int column, int product) { return l.between + (int64_t)(column * l.products + product) * l.rank_max; }

DEVICE float code(uint32_t codes, int i) { return (float)(int8_t)(codes >> (8 * i)); }

// A block takes a product of a column, a warp a row of A.
KERNEL(512, 1) low_rank_down(const LowRank l) {
    let_next_start();
    wait_for_previous();
    const Factors *f = find(l, block_x(), product_of(l, block_y()).matrix);
    if (!f || f->rank == 0) return;
    const float *x = l.x + (int64_t)block_x() * l.cols;
    const int rank = f->rank, whole = l.cols % 4 == 0 ? l.cols : 0;
    for (int row = warp(); row < rank; row += threads_in_block() / 32) {
        const uint8_t *codes = f->a + 4 * rank + (int64_t)row * l.cols;
        float sum = 0;
#pragma unroll 8
        for (int i = lane() * 4; i < whole; i += 128) {
            const uint32_t four = *(const uint32_t *)(codes + i);
            const float4 values = *(const float4 *)(x + i);
            sum = fmaf(code(four, 0), values.x, fmaf(code(four, 1), values.y, fmaf(code(four, 2), values.z, fmaf(code(four, 3), values.w, sum))));
        }
        for (int i = whole + lane(); i < l.cols; i += 32) sum = fmaf((float)(int8_t)codes[i], x[i], sum);
        sum = warp_sum(sum);
        if (lane() == 0) between(l, block_x(), block_y())[row] = f->scale * ((const float *)f->a)[row] * sum;
    }
}
ENTRY(low_rank_down)

// A thread takes four outputs of a column; blocks go over the products one after the other, 1024 outputs each.
KERNEL(256, 1) low_rank_up(const LowRank l) {
    let_next_start();
    wait_for_previous();
    int index = 0, block = block_y();
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int blocks = (l.rows[i] + 1023) / 1024;
        if (index == i && index + 1 < l.products && block >= blocks) block -= blocks, index++;
    }
    const Product p = product_of(l, index);
    const Factors *f = find(l, block_x(), p.matrix);
    if (!f || f->rank == 0) return;
    const int row = block * 1024 + thread_index() * 4, rank = f->rank;
    if (row >= p.rows) return;
    const uint8_t *panel = f->b + (int64_t)(row / PANEL) * rank * (4 + PANEL), *codes = panel + 4 * rank + row % PANEL;
    const float *h = between(l, block_x(), index);
    float sum[4] = {0, 0, 0, 0};
    for (int r = 0; r < rank; r++) {
        const float each = h[r] * ((const float *)panel)[r];
        const uint32_t four = *(const uint32_t *)(codes + r * PANEL);
#pragma unroll
        for (int j = 0; j < 4; j++) sum[j] = fmaf(each, code(four, j), sum[j]);
    }
    float *y = l.y + (int64_t)block_x() * l.stride + p.first + row;
    for (int j = 0; j < min(4, p.rows - row); j++) y[j] += sum[j];
}
ENTRY(low_rank_up)
