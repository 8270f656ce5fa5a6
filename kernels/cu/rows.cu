// What is done to each column by itself: embedding, norms, rotation, the gate, and rounding to what products take.
#include "formats.cuh"
#include "inputs.cuh"
#include "step.cuh"

// ---- token ids to rows ----

struct Embed {
    const uint8_t *weights;
    const Column *columns;
    float *x; // [column][cols]
    int32_t cols;
    float scale;
};

// A warp reads the 16 rows of a slab and keeps one: so weights have one order in memory, that of products.
template <class F> DEVICE void embed(const Embed &e) {
    wait_for_previous();
    const uint32_t token = e.columns[block_x()].token;
    const int pairs_all = (e.cols + 63) / 64, slabs = (pairs_all + PAIRS - 1) / PAIRS, high = (token >> 3) & 1;
    const uint8_t *rows = e.weights + (int64_t)(token >> 4) * pairs_all * F::PAIR_BYTES;
    float *x = e.x + (int64_t)block_x() * e.cols;
    for (int at = warp(); at < slabs; at += threads_in_block() / 32) {
        F slab;
        const int pairs = min(PAIRS, pairs_all - at * PAIRS);
        slab.load(rows + (int64_t)at * PAIRS * F::PAIR_BYTES, pairs);
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            if (i >= pairs) break;
            uint32_t a[2][4];
            slab.codes(i, a);
#pragma unroll
            for (int b = 0; b < 2; b++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const uint32_t four = high ? a[b][2 * h + 1] : a[b][2 * h];
                    const float scale = high ? slab.scale(i, b, h, 1) : slab.scale(i, b, h, 0);
                    const float least = high ? slab.min(i, b, h, 1) : slab.min(i, b, h, 0);
                    const int first = (at * PAIRS + i) * 64 + b * 32 + h * 16 + quad() * 4;
                    for (int j = 0; j < 4; j++) {
                        const float code = F::SIGNED ? signed_byte_to_float(four, j) : byte_to_float(four, j);
                        if (group() == (int)(token & 7) && first + j < e.cols)
                            x[first + j] = (scale * (code - F::OFFSET) - least) * e.scale;
                    }
                }
        }
    }
}

#define EMBED(F)                                                                                                              \
    KERNEL(128, 1) embed_##F(const Embed e) { embed<F>(e); }                                                                  \
    ENTRY(embed_##F)
EMBED(Q4_0)
EMBED(Q8_0)
EMBED(Q4_K)
EMBED(Q5_K)
EMBED(Q6_K)
EMBED(Plane)

// ---- angles ----

struct Rotations {
    const Column *columns;
    const double *inv_freq; // [pairs], radians per position
    float *table;           // [column][pairs][cosine, sine]
    int32_t pairs;
    float magnitude;
};

KERNEL(128, 1) rotations(const Rotations r) {
    wait_for_previous();
    const uint32_t position = r.columns[block_x()].position;
    for (int i = thread_index(); i < r.pairs; i += threads_in_block()) {
        // Whole turns are taken away in f64: a long context has thousands of them.
        const double turns = position * r.inv_freq[i] * 0.15915494309189535;
        const float angle = (float)((turns - rint(turns)) * 6.283185307179586);
        float *out = r.table + ((int64_t)block_x() * r.pairs + i) * 2;
        out[0] = cosf(angle) * r.magnitude;
        out[1] = sinf(angle) * r.magnitude;
    }
}
ENTRY(rotations)

// ---- norm ----

struct Norm {
    const float *x;           // [column][width], the stream
    float *stream;            // the stream with the result added, which may be x; or null
    const float *result;      // [column][width], or null
    const float *result_norm; // [width], or null: the norm of the result before it is added
    const float *weight;      // [width]
    const Column *columns;    // whose `from` says which row of x belongs to a column; or null
    float *y;                 // [column][width]: what is rounded, for float weights; or null
    Inputs inputs;
    int32_t width;
    float eps;
};

// y = norm(x + result) · weight. Source: Zhang and Sennrich 2019, equation 4.
KERNEL(256, 1) rms_norm(const Norm n) {
    float *space = (float *)shared_memory();
    let_next_start();
    wait_for_previous();
    const int column = block_x();
    const int row = n.columns ? n.columns[column].from : column;
    const float *x = n.x + (int64_t)row * n.width;
    if (n.stream) {
        const float *result = n.result + (int64_t)column * n.width;
        float *stream = n.stream + (int64_t)column * n.width;
        float factor = 1;
        if (n.result_norm) {
            float squares = 0;
            for (int i = thread_index(); i < n.width; i += threads_in_block()) squares += result[i] * result[i];
            factor = 1.0f / sqrtf(block_sum(squares, space) / n.width + n.eps);
        }
        for (int i = thread_index(); i < n.width; i += threads_in_block())
            stream[i] = x[i] + result[i] * (n.result_norm ? factor * n.result_norm[i] : 1.0f);
        x = stream; // each thread reads only what it wrote
    }
    float squares = 0;
    for (int i = thread_index(); i < n.width; i += threads_in_block()) squares += x[i] * x[i];
    const float factor = 1.0f / sqrtf(block_sum(squares, space) / n.width + n.eps);
    const int blocks = (n.width + 63) / 64 * 2;
    for (int block = warp(); block < blocks; block += threads_in_block() / 32) {
        const int i = block * 32 + lane();
        const float y = i < n.width ? x[i] * factor * n.weight[i] : 0.0f;
        store_block(n.inputs, column, block, y);
        if (n.y && i < n.width) n.y[(int64_t)column * n.width + i] = y;
    }
}
ENTRY(rms_norm)

// ---- queries, keys and values ----

struct Heads {
    const float *qkv;         // [column][q, k, v]
    const float *bias;        // the same width, or null
    const float *q_norm;      // [head_dim], or null
    const float *k_norm;
    const float *rotations;   // [column][pairs][2], or null
    const Column *columns;
    uint16_t *q;              // [column][head][head_dim rounded up to 32] f16
    Cache cache;
    int32_t heads, head_dim, pairs;
    int32_t halves;           // pairs are i and i + pairs, rather than neighbours
    float eps;
    float q_scale;            // attention scale · log₂ e
};

// A warp takes a head: bias, norm, rotation; then queries to f16, keys and values to the cache.
KERNEL(256, 1) heads(const Heads h) {
    float *mine = (float *)shared_memory() + warp() * h.cache.head_dim;
    let_next_start();
    wait_for_previous();
    const Column column = h.columns[block_x()];
    const int padded = h.cache.head_dim, all = h.heads + 2 * h.cache.kv_heads;
    for (int head = warp(); head < all; head += threads_in_block() / 32) {
        const int64_t width = (int64_t)all * h.head_dim;
        const float *x = h.qkv + block_x() * width + head * h.head_dim;
        const bool is_q = head < h.heads, is_v = head >= h.heads + h.cache.kv_heads;
        const float *weight = is_q ? h.q_norm : is_v ? nullptr : h.k_norm;
        float squares = 0;
        for (int d = lane(); d < padded; d += 32) {
            float value = d < h.head_dim ? x[d] + (h.bias ? h.bias[head * h.head_dim + d] : 0.0f) : 0.0f;
            mine[d] = value;
            squares += value * value;
        }
        const float factor = weight ? 1.0f / sqrtf(warp_sum(squares) / h.head_dim + h.eps) : 1.0f;
        if (weight)
            for (int d = lane(); d < h.head_dim; d += 32) mine[d] *= factor * weight[d];
        sync_warp();
        const float *turn = is_v || !h.rotations ? nullptr : h.rotations + (int64_t)block_x() * h.pairs * 2;
        const int kv_head = is_v ? head - h.heads - h.cache.kv_heads : head - h.heads;
        const int64_t at = is_q ? 0 : plane(h.cache, column.block, kv_head);
        for (int d = lane(); d < padded; d += 32) {
            float value = mine[d];
            if (turn && d < 2 * h.pairs) {
                const int pair = h.halves ? (d < h.pairs ? d : d - h.pairs) : d >> 1;
                const bool second = h.halves ? d >= h.pairs : d & 1;
                const float other = mine[h.halves ? (second ? d - h.pairs : d + h.pairs) : d ^ 1];
                const float c = turn[pair * 2], s = turn[pair * 2 + 1];
                value = second ? other * s + value * c : value * c - other * s;
            }
            // What is past the end of a sequence is weighted by zero: all that a block ever had must be numbers that f16 has.
            if (!is_q) value = fminf(fmaxf(value, -65504.0f), 65504.0f);
            if (is_q) {
                h.q[((int64_t)block_x() * h.heads + head) * padded + d] = float_to_half(value * h.q_scale);
            } else if (h.cache.bytes == 2) {
                if (is_v) ((uint16_t *)(h.cache.values + at))[d * BLOCK_POSITIONS + column.offset] = float_to_half(value);
                else ((uint16_t *)(h.cache.keys + at))[column.offset * padded + d] = float_to_half(value);
            } else {
                const uint16_t scale = float_to_half(warp_max(fabsf(value)) / 127.0f);
                const float unit = half_to_float(scale);
                const float code = unit > 0.0f ? rintf(value / unit) : 0.0f;
                const int8_t byte = (int8_t)fmaxf(-127.0f, fminf(127.0f, code));
                const int codes = padded * BLOCK_POSITIONS, group32 = d >> 5, groups = padded >> 5;
                if (is_v) {
                    h.cache.values[at + d * BLOCK_POSITIONS + column.offset] = (uint8_t)byte;
                    if (lane() == 0) ((uint16_t *)(h.cache.values + at + codes))[group32 * BLOCK_POSITIONS + column.offset] = scale;
                } else {
                    h.cache.keys[at + column.offset * padded + d] = (uint8_t)byte;
                    if (lane() == 0) ((uint16_t *)(h.cache.keys + at + codes))[column.offset * groups + group32] = scale;
                }
            }
        }
        sync_warp();
    }
}
ENTRY(heads)

// ---- the gate ----

struct Gate {
    const float *gate_up; // [column][gate, up]
    float *y;             // [column][width], for float weights; or null
    Inputs inputs;
    int32_t width;
    int32_t gelu;         // the tanh approximation of GELU, rather than SiLU
};

KERNEL(256, 1) gate(const Gate g) {
    let_next_start();
    wait_for_previous();
    const float *gate = g.gate_up + (int64_t)block_x() * 2 * g.width, *up = gate + g.width;
    const int blocks = (g.width + 63) / 64 * 2;
    for (int block = block_y() * (threads_in_block() / 32) + warp(); block < blocks; block += blocks_y() * (threads_in_block() / 32)) {
        const int i = block * 32 + lane();
        float y = 0;
        if (i < g.width) {
            const float x = gate[i];
            // gelu(x) = x · sigmoid(2 √(2/π) (x + 0.044715 x³)). Source: Hendrycks and Gimpel 2016, section 2.
            const float inner = g.gelu ? 1.5957691216057308f * (x + 0.044715f * x * x * x) : x;
            y = x / (1.0f + exp2_fast(-1.4426950408889634f * inner)) * up[i];
        }
        store_block(g.inputs, block_x(), block, y);
        if (g.y && i < g.width) g.y[(int64_t)block_x() * g.width + i] = y;
    }
}
ENTRY(gate)

// ---- float weights ----

struct Floats {
    const uint8_t *weights; // [row][cols]
    const float *x;         // [column][cols]
    float *y;               // [column][stride]
    int32_t rows, cols, stride, columns;
};

template <int KIND> DEVICE float weight_at(const uint8_t *row, int i) {
    if (KIND == 32) return ((const float *)row)[i];
    const uint16_t x = ((const uint16_t *)row)[i];
    return KIND == 16 ? half_to_float(x) : bits_to_float((uint32_t)x << 16);
}

// Eight weights, which lie on a boundary of 16 bytes.
template <int KIND> DEVICE void eight_weights(const uint8_t *at, float (&w)[8]) {
    const uint4 x = load_weights(at);
    const uint32_t words[4] = {x.x, x.y, x.z, x.w};
    if (KIND == 32) {
        const uint4 y = load_weights(at + 16);
        const uint32_t more[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int j = 0; j < 4; j++) w[j] = bits_to_float(words[j]), w[4 + j] = bits_to_float(more[j]);
        return;
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        w[2 * j] = KIND == 16 ? half_to_float((uint16_t)words[j]) : bits_to_float(words[j] << 16);
        w[2 * j + 1] = KIND == 16 ? half_to_float((uint16_t)(words[j] >> 16)) : bits_to_float(words[j] & 0xffff0000u);
    }
}

// A warp takes four rows, and up to eight columns at a time; a lane eight weights of each row, 256 further on again.
static const int FLOAT_ROWS = 4;

template <int KIND> DEVICE void floats(const Floats &f) {
    let_next_start();
    wait_for_previous();
    const int first_row = (block_x() * (threads_in_block() / 32) + warp()) * FLOAT_ROWS;
    const int first = block_y() * 8, columns = min(8, f.columns - first);
    if (first_row >= f.rows) return;
    const int64_t row_bytes = (int64_t)f.cols * (KIND == 32 ? 4 : 2);
    const uint8_t *rows[FLOAT_ROWS]; // the last once more, where there are fewer
#pragma unroll
    for (int r = 0; r < FLOAT_ROWS; r++) rows[r] = f.weights + min(first_row + r, f.rows - 1) * row_bytes;
    float sum[FLOAT_ROWS][8];
#pragma unroll
    for (int r = 0; r < FLOAT_ROWS; r++)
#pragma unroll
        for (int c = 0; c < 8; c++) sum[r][c] = 0;
    const int whole = f.cols % 8 == 0 ? f.cols : 0;
    for (int i = lane() * 8; i < whole; i += 256) {
        float w[FLOAT_ROWS][8];
#pragma unroll
        for (int r = 0; r < FLOAT_ROWS; r++) eight_weights<KIND>(rows[r] + (int64_t)i * (KIND == 32 ? 4 : 2), w[r]);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            if (c >= columns) break;
            const float *x = f.x + (int64_t)(first + c) * f.cols + i;
            const float4 low = *(const float4 *)x, high = *(const float4 *)(x + 4);
            const float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int r = 0; r < FLOAT_ROWS; r++)
#pragma unroll
                for (int j = 0; j < 8; j++) sum[r][c] = fmaf(w[r][j], values[j], sum[r][c]);
        }
    }
    for (int i = whole + lane(); i < f.cols; i += 32)
#pragma unroll
        for (int r = 0; r < FLOAT_ROWS; r++) {
            const float weight = weight_at<KIND>(rows[r], i);
#pragma unroll
            for (int c = 0; c < 8; c++)
                if (c < columns) sum[r][c] = fmaf(weight, f.x[(int64_t)(first + c) * f.cols + i], sum[r][c]);
        }
#pragma unroll
    for (int r = 0; r < FLOAT_ROWS; r++)
#pragma unroll
        for (int c = 0; c < 8; c++) {
            const float y = warp_sum(sum[r][c]);
            if (lane() == 0 && c < columns && first_row + r < f.rows) f.y[(int64_t)(first + c) * f.stride + first_row + r] = y;
        }
}

template <int KIND> DEVICE void embed_floats(const Embed &e) {
    wait_for_previous();
    const uint8_t *row = e.weights + (int64_t)e.columns[block_x()].token * e.cols * (KIND == 32 ? 4 : 2);
    for (int i = thread_index(); i < e.cols; i += threads_in_block()) e.x[(int64_t)block_x() * e.cols + i] = weight_at<KIND>(row, i) * e.scale;
}

#define FLOATS(NAME, KIND)                                                                                                    \
    KERNEL(128, 1) matmul_##NAME(const Floats f) { floats<KIND>(f); }                                                         \
    KERNEL(128, 1) embed_##NAME(const Embed e) { embed_floats<KIND>(e); }                                                     \
    ENTRY(matmul_##NAME)                                                                                                      \
    ENTRY(embed_##NAME)
FLOATS(F32, 32)
FLOATS(F16, 16)
FLOATS(BF16, 0)
