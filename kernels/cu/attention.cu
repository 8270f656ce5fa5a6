// Attention over the KV cache, for decodes and prompts by the same arithmetic.
//
// An *item* is up to 16 rows (query heads that share a KV head, of one column or of neighbours) and some *spans* of 256
// positions. A span has a softmax of its own: its maximum, the sum of weights and the weighted sum of values are a *part*.
// Parts are joined in the order of spans, here where an item has several, or in `join`; so bits depend on neither.
//
// A block takes an item and a KV head; each of its four warps two blocks of 32 positions of a span.
#include "inputs.cuh"
#include "step.cuh"

static const int SPAN = 256;
static const int ROWS = 16;

struct Item {
    uint32_t first, columns;         // columns of the step, one sequence
    uint32_t first_head, heads;      // of those that share a KV head
    uint32_t span_start, span_end;   // in spans
    uint32_t part;                   // added to the columns' first
    uint32_t unused;
};

struct Attend {
    const Item *items;
    const uint32_t *items_count;
    const Column *columns;
    const uint32_t *tables;
    const uint16_t *q; // [column of the step][head][head_dim] f16, times the scale and log₂ e
    float *parts;      // [part][head][maximum, total, head_dim sums]
    Cache cache;
    int32_t heads;
    int32_t window;    // positions that a query sees; 0 is all
};

// Two signed bytes of x, each times its own f16 scale.
DEVICE uint32_t two_halves(uint32_t x, int shift, uint32_t scales) {
    return float_to_halves((int8_t)(x >> shift) * half_to_float((uint16_t)scales), (int8_t)(x >> (shift + 8)) * half_to_float((uint16_t)(scales >> 16)));
}

// Eight neighbouring elements of keys or values as f16: `scale` is that of q8_0.
template <int BYTES> DEVICE uint4 load_eight(const uint8_t *plane, int index, float scale) {
    if (BYTES == 2) return *(const uint4 *)(plane + index * 2);
    const uint2 x = *(const uint2 *)(plane + index);
    uint4 y;
    y.x = float_to_halves((int8_t)x.x * scale, (int8_t)(x.x >> 8) * scale);
    y.y = float_to_halves((int8_t)(x.x >> 16) * scale, (int8_t)(x.x >> 24) * scale);
    y.z = float_to_halves((int8_t)x.y * scale, (int8_t)(x.y >> 8) * scale);
    y.w = float_to_halves((int8_t)(x.y >> 16) * scale, (int8_t)(x.y >> 24) * scale);
    return y;
}

// GROUPS: head_dim / 32. Columns of a fragment stand for what is convenient: a lane's eight elements of a head, or eight
// positions of a block, lie together in memory.
//
//   element of a key  32 · chunk + 8 · quad + 4 · step + …          two steps of 16 elements in a chunk
//   position          8 · (column / 2) + 2 · tile + column % 2      of the 32 in a block, four tiles of 8 columns
template <int GROUPS, int BYTES> DEVICE void attend(const Attend &p) {
    const int WIDTH = GROUPS * 32, PIECE = GROUPS > 4 ? 16 : GROUPS * 4;
    float *joined = (float *)shared_memory();         // [16][WIDTH]
    float *values = joined + ROWS * WIDTH;         // [16][WIDTH], of a span
    float *tops = values + ROWS * WIDTH;           // [4 warps][16]
    float *totals = tops + 4 * ROWS;               // [4 warps][16]
    let_next_start();
    wait_for_previous();
    if (block_x() >= (int)*p.items_count) return;
    const Item item = p.items[block_x()];
    const int kv_head = block_y(), shared_by = p.heads / p.cache.kv_heads;
    const int rows = item.columns * item.heads;
    const uint32_t *table = p.tables + p.columns[item.first].table;

    // Two rows of this lane: their queries, and what they see. A row that is not there sees nothing.
    uint4 q[GROUPS][2];
    int see_start[2], see_end[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = group() + 8 * r;
        const bool there = row < rows;
        const int column = item.first + (there ? row / item.heads : 0);
        const int head = kv_head * shared_by + item.first_head + (there ? row % item.heads : 0);
        see_end[r] = there ? p.columns[column].position + 1 : 0;
        see_start[r] = p.window > 0 ? max(0, see_end[r] - p.window) : 0;
        const uint16_t *from = p.q + ((int64_t)p.columns[column].from * p.heads + head) * WIDTH;
#pragma unroll
        for (int chunk = 0; chunk < GROUPS; chunk++) q[chunk][r] = *(const uint4 *)(from + chunk * 32 + quad() * 8);
    }
    const int last = p.columns[item.first + item.columns - 1].position; // the furthest that any row sees
    float joined_top = -INFINITY, joined_total = 0;                      // of row thread / 8, for the first 128 threads
    // Spans before every row's window weigh nothing.
    const int begins = p.window > 0 ? max(0, (int)p.columns[item.first].position + 1 - p.window) : 0;
    const uint32_t span_start = max(item.span_start, (uint32_t)(begins / SPAN));

    for (uint32_t span = span_start; span < item.span_end; span++) {
        // Scores of this warp's two blocks.
        float s[2][4][4];
        float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int first = span * SPAN + (half * 4 + warp()) * BLOCK_POSITIONS;
            const bool there = first <= last;
            const uint8_t *keys = p.cache.keys + (there ? plane(p.cache, table[first / BLOCK_POSITIONS], kv_head) : 0);
#pragma unroll
            for (int tile = 0; tile < 4; tile++) {
                float c[4] = {0, 0, 0, 0};
                if (there) {
                    const int position = 8 * (group() >> 1) + 2 * tile + (group() & 1);
#pragma unroll
                    for (int chunk = 0; chunk < GROUPS; chunk++) {
                        float scale = 1;
                        if (BYTES == 1) scale = half_to_float(((const uint16_t *)(keys + WIDTH * BLOCK_POSITIONS))[position * GROUPS + chunk]);
                        const uint4 k = load_eight<BYTES>(keys, position * WIDTH + chunk * 32 + quad() * 8, scale);
                        const uint32_t a0[4] = {q[chunk][0].x, q[chunk][1].x, q[chunk][0].y, q[chunk][1].y};
                        const uint32_t a1[4] = {q[chunk][0].z, q[chunk][1].z, q[chunk][0].w, q[chunk][1].w};
                        mma_halves(c, a0, k.x, k.y);
                        mma_halves(c, a1, k.z, k.w);
                    }
                }
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int position = first + 8 * quad() + 2 * tile + (j & 1), r = j >> 1;
                    const bool seen = position >= see_start[r] && position < see_end[r];
                    s[half][tile][j] = seen ? c[j] : -INFINITY;
                    top[r] = fmaxf(top[r], s[half][tile][j]);
                }
            }
        }
        // The span's maximum of each row, and weights.
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = fmaxf(top[r], shuffle_xor(top[r], 1));
            top[r] = fmaxf(top[r], shuffle_xor(top[r], 2));
            if (quad() == 0) tops[warp() * ROWS + group() + 8 * r] = top[r];
        }
        sync_block();
        float total[2] = {0, 0};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            for (int w = 0; w < 4; w++) top[r] = fmaxf(top[r], tops[w * ROWS + group() + 8 * r]);
        }
        uint32_t weights[2][4][2]; // [half][tile][row]: two positions
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int tile = 0; tile < 4; tile++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const float w0 = s[half][tile][2 * r] == -INFINITY ? 0.0f : exp2_fast(s[half][tile][2 * r] - top[r]);
                    const float w1 = s[half][tile][2 * r + 1] == -INFINITY ? 0.0f : exp2_fast(s[half][tile][2 * r + 1] - top[r]);
                    total[r] += w0 + w1;
                    weights[half][tile][r] = float_to_halves(w0, w1);
                }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            total[r] += shuffle_xor(total[r], 1);
            total[r] += shuffle_xor(total[r], 2);
            if (quad() == 0) totals[warp() * ROWS + group() + 8 * r] = total[r];
        }
        // Weighted values, 128 elements of a head at a time for the sake of registers.
#pragma unroll
        for (int piece = 0; piece < GROUPS * 4; piece += PIECE) {
            float o[PIECE][4];
#pragma unroll
            for (int t = 0; t < PIECE; t++) o[t][0] = o[t][1] = o[t][2] = o[t][3] = 0;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int first = span * SPAN + (half * 4 + warp()) * BLOCK_POSITIONS;
                if (first > last) continue;
                const uint8_t *at = p.cache.values + plane(p.cache, table[first / BLOCK_POSITIONS], kv_head);
                const uint32_t a0[4] = {weights[half][0][0], weights[half][0][1], weights[half][1][0], weights[half][1][1]};
                const uint32_t a1[4] = {weights[half][2][0], weights[half][2][1], weights[half][3][0], weights[half][3][1]};
#pragma unroll
                for (int t = 0; t < PIECE; t++) {
                    const int d = (piece + t) * 8 + group();
                    uint4 v;
                    if (BYTES == 2) {
                        v = load_eight<2>(at, d * BLOCK_POSITIONS + quad() * 8, 1);
                    } else {
                        // A scale for each position: as many as elements.
                        const uint2 x = *(const uint2 *)(at + d * BLOCK_POSITIONS + quad() * 8);
                        const uint4 scales = *(const uint4 *)(at + WIDTH * BLOCK_POSITIONS + ((d >> 5) * BLOCK_POSITIONS + quad() * 8) * 2);
                        v.x = two_halves(x.x, 0, scales.x);
                        v.y = two_halves(x.x, 16, scales.y);
                        v.z = two_halves(x.y, 0, scales.z);
                        v.w = two_halves(x.y, 16, scales.w);
                    }
                    mma_halves(o[t], a0, v.x, v.y);
                    mma_halves(o[t], a1, v.z, v.w);
                }
            }
            // The warps add theirs in order.
            for (int w = 0; w < 4; w++) {
                if (warp() == w) {
#pragma unroll
                    for (int t = 0; t < PIECE; t++)
#pragma unroll
                        for (int j = 0; j < 4; j++) {
                            float *to = values + (group() + 8 * (j >> 1)) * WIDTH + (piece + t) * 8 + quad() * 2 + (j & 1);
                            *to = w == 0 ? o[t][j] : *to + o[t][j];
                        }
                }
                sync_block();
            }
        }
        // A span joins those before it: eight threads a row.
        const int row = thread_index() >> 3;
        float span_top = -INFINITY, span_total = 0;
        for (int w = 0; w < 4; w++) {
            span_top = fmaxf(span_top, tops[w * ROWS + row]);
            span_total += totals[w * ROWS + row];
        }
        const float new_top = fmaxf(joined_top, span_top);
        const float shrink = joined_top == -INFINITY ? 0.0f : exp2_fast(joined_top - new_top);
        const float grow = span_top == -INFINITY ? 0.0f : exp2_fast(span_top - new_top);
        joined_total = joined_total * shrink + span_total * grow;
        for (int d = thread_index() & 7; d < WIDTH; d += 8) {
            float *to = joined + row * WIDTH + d;
            const float before = span == span_start ? 0.0f : *to * shrink;
            *to = before + values[row * WIDTH + d] * grow;
        }
        joined_top = new_top;
        sync_block();
    }
    const int row = thread_index() >> 3;
    if (row >= rows) return;
    const int column = item.first + row / item.heads, head = kv_head * shared_by + item.first_head + row % item.heads;
    float *part = p.parts + ((int64_t)(p.columns[column].part_start + item.part) * p.heads + head) * (WIDTH + 2);
    if ((thread_index() & 7) == 0) part[0] = joined_top, part[1] = joined_total;
    const bool none = span_start >= item.span_end;
    for (int d = thread_index() & 7; d < WIDTH; d += 8) part[2 + d] = none ? 0.0f : joined[row * WIDTH + d];
}

#define ATTEND(GROUPS)                                                                                                        \
    KERNEL(128, 1) attend_f16_##GROUPS(const Attend p) { attend<GROUPS, 2>(p); }                                              \
    KERNEL(128, 1) attend_q8_0_##GROUPS(const Attend p) { attend<GROUPS, 1>(p); }                                             \
    ENTRY(attend_f16_##GROUPS)                                                                                                \
    ENTRY(attend_q8_0_##GROUPS)
ATTEND(1)
ATTEND(2)
ATTEND(3)
ATTEND(4)
ATTEND(8)

struct Join {
    const Column *columns;
    const float *parts;
    float *y; // [column][heads · head_dim], for float weights; or null
    Inputs inputs;
    int32_t heads, head_dim, padded;
};

// Joins the parts of a column, and rounds the result.
KERNEL(256, 1) join(const Join p) {
    let_next_start();
    wait_for_previous();
    const Column column = p.columns[block_x()];
    const int width = p.heads * p.head_dim, blocks = (width + 63) / 64 * 2;
    for (int block = block_y() * (threads_in_block() / 32) + warp(); block < blocks; block += blocks_y() * (threads_in_block() / 32)) {
        const int i = block * 32 + lane();
        float y = 0;
        if (i < width) {
            const int head = i / p.head_dim, d = i % p.head_dim;
            float top = -INFINITY, total = 0;
            for (uint32_t part = 0; part < column.part_count; part++) {
                const float *from = p.parts + ((int64_t)(column.part_start + part) * p.heads + head) * (p.padded + 2);
                const float new_top = fmaxf(top, from[0]);
                const float shrink = top == -INFINITY ? 0.0f : exp2_fast(top - new_top);
                const float grow = from[0] == -INFINITY ? 0.0f : exp2_fast(from[0] - new_top);
                total = total * shrink + from[1] * grow;
                y = (part == 0 ? 0.0f : y * shrink) + from[2 + d] * grow;
                top = new_top;
            }
            y /= total;
        }
        store_block(p.inputs, block_x(), block, y);
        if (p.y && i < width) p.y[(int64_t)block_x() * width + i] = y;
    }
}
ENTRY(join)
