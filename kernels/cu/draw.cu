// The next token of each row, drawn where its logits are, so that a few numbers leave the device instead of a vocabulary.
//
// `survey` looks at a chunk of a row in each block. `draw` joins what they saw: how sure the model is, and the token. A cut
// (top-k, top-p, min-p) is a *depth* below the greatest logit, found by a histogram in three digits. Weights are integers,
// so that their sums have no order:
//
//   depth  = ⌊2²⁵ · (greatest − logit) / temperature · log₂ e⌋      weight = 2⁴⁰ · 2^(−depth / 2²⁵), none from 40 · 2²⁵ on
#include "device.cuh"

// How a row is drawn: `outstation_cuda::Draw` has the same fields.
struct Draw {
    float temperature, top_p, min_p;
    uint32_t top_k;              // 0 is all
    uint32_t unit_low, unit_high; // of a number below 2⁵³: where in the mass the token lies
    uint32_t formed;             // whether only some tokens are allowed
    uint32_t how;
};
enum How { NOT = 0, GREEDY = 1, RANDOM = 2 };

struct Outcome {
    uint32_t top;                        // the likeliest token
    float max, log_sum, entropy, top1, top2; // as `ops::Certainty` says
    uint32_t token;                      // the one that was drawn
    float logit;                         // its own
};

// What `survey` saw: of the logits as they are, then of those that are allowed.
struct Chunk {
    float max, second;
    uint32_t top;
    float sum, weighted; // Σ w and Σ w · (x − max) for w = e^(x − max)
    float allowed_max;
    uint32_t allowed_top;
    float mass; // Σ e^((x − allowed_max) / temperature)
};

struct Rows {
    const float *logits; // [row][vocabulary]
    const Draw *draws;
    const uint32_t *told;  // [row][vocabulary / 32], a bit for each token that is allowed; memory of the host
    uint32_t *allowed;     // the same on the device: `survey` copies what it needs
    Chunk *chunks;         // [row][chunks]
    Outcome *outcomes;     // memory of the host
    int32_t vocabulary, chunks_count, chunk_tokens;
};

static const float LOG2_E = 1.4426950408889634f;
static const uint32_t NO_TOKEN = 0xffffffffu, TOO_DEEP = 0xffffffffu;

DEVICE float nothing() { return bits_to_float(0xff800000u); } // −∞
DEVICE bool is_finite(float x) { return x - x == 0.0f; }

DEVICE float plain(const Rows &r, int row, int token) {
    const float x = r.logits[(int64_t)row * r.vocabulary + token];
    return x == x ? x : nothing();
}

// `words` is null where all are.
DEVICE bool allows(const uint32_t *words, int token) { return !words || (words[token >> 5] >> (token & 31) & 1); }
DEVICE int64_t first_word(const Rows &r, int row) { return (int64_t)row * ((r.vocabulary + 31) / 32); }

// The greatest and where it is first.
struct Best {
    float value;
    uint32_t at;
};
DEVICE Best better(Best a, Best b) { return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a; }
DEVICE Best warp_best(Best mine) {
    for (int mask = 16; mask > 0; mask >>= 1) mine = better(mine, {shuffle_xor(mine.value, mask), shuffle_xor(mine.at, mask)});
    return mine;
}

KERNEL(256, 1) survey(const Rows r) {
    float *space = (float *)shared_memory();   // a float for each warp
    uint32_t *found = (uint32_t *)(space + 8); // [warp][value, at, second, allowed value, at]
    uint32_t *words = found + 8 * 5;           // of this chunk
    let_next_start();
    wait_for_previous();
    const int row = block_x(), first = block_y() * r.chunk_tokens, end = min(first + r.chunk_tokens, r.vocabulary);
    const Draw d = r.draws[row];
    if (d.formed) {
        for (int i = thread_index(); i < (end - first + 31) / 32; i += threads_in_block()) {
            const int64_t at = first_word(r, row) + first / 32 + i;
            words[i] = r.allowed[at] = r.told[at];
        }
        sync_block();
    } else {
        words = nullptr;
    }

    Best best = {nothing(), NO_TOKEN}, allowed = best;
    float second = nothing();
    for (int token = first + thread_index(); token < end; token += threads_in_block()) {
        const float x = plain(r, row, token);
        if (x > best.value) second = best.value, best = {x, (uint32_t)token};
        else second = fmaxf(second, x);
        if (x > allowed.value && allows(words, token - first)) allowed = {x, (uint32_t)token};
    }
    const Best mine = best;
    best = warp_best(best);
    // Of who has not the greatest, the greatest; of who has it, what comes after it.
    second = warp_max(mine.at == best.at ? second : mine.value);
    allowed = warp_best(allowed);
    if (lane() == 0) {
        uint32_t *to = found + warp() * 5;
        to[0] = float_to_bits(best.value), to[1] = best.at, to[2] = float_to_bits(second);
        to[3] = float_to_bits(allowed.value), to[4] = allowed.at;
    }
    sync_block();
    best = allowed = {nothing(), NO_TOKEN};
    second = nothing();
    for (int w = 0; w < threads_in_block() / 32; w++) {
        const uint32_t *of = found + w * 5;
        const Best other = {bits_to_float(of[0]), of[1]}, joined = better(best, other);
        second = fmaxf(fmaxf(second, bits_to_float(of[2])), joined.at == best.at ? other.value : best.value);
        best = joined;
        allowed = better(allowed, {bits_to_float(of[3]), of[4]});
    }

    float sum = 0, weighted = 0, mass = 0;
    for (int token = first + thread_index(); token < end; token += threads_in_block()) {
        const float x = plain(r, row, token);
        if (!(x > nothing())) continue;
        const float w = exp2_fast((x - best.value) * LOG2_E);
        sum += w;
        weighted += w * (x - best.value);
        if (d.how == RANDOM && allows(words, token - first)) mass += exp2_fast((x - allowed.value) / d.temperature * LOG2_E);
    }
    sum = block_sum(sum, space);
    weighted = block_sum(weighted, space);
    mass = block_sum(mass, space);
    if (thread_index() == 0)
        r.chunks[row * r.chunks_count + block_y()] = {best.value, second, best.at, sum, weighted, allowed.value, allowed.at, mass};
}
ENTRY(survey)

// ---- draws ----

static const int DEPTH_BITS = 25, WEIGHT_BITS = 40;
static const int BINS = WEIGHT_BITS << (DEPTH_BITS - 20); // of the first digit, which has the most

DEVICE uint32_t depth(float x, float greatest, float temperature) {
    const float below = (greatest - x) / temperature * LOG2_E;
    return below < (float)WEIGHT_BITS ? (uint32_t)(below * (float)(1 << DEPTH_BITS)) : TOO_DEEP;
}
DEVICE uint64_t weight(uint32_t depth) { return (uint64_t)(exp2_fast(-(float)depth / (float)(1 << DEPTH_BITS)) * (float)(1ull << WEIGHT_BITS)); }

struct Shared {
    uint32_t counts[BINS];
    uint64_t masses[BINS];
    uint64_t warps[2][16];
    uint64_t count_before, mass_before;
    uint32_t bin;
};
static_assert(sizeof(Shared) == 15640, "outstation_cuda::draw asks for as much");

// Sums of the threads before this one, and of all.
DEVICE uint64_t scan(uint64_t mine, uint64_t (&space)[16], uint64_t &all) {
    uint64_t before = 0, sum = mine;
    for (int mask = 1; mask < 32; mask <<= 1) {
        const uint64_t other = shuffle_xor(sum, mask);
        if (lane() & mask) before += other;
        sum += other;
    }
    if (lane() == 0) space[warp()] = sum;
    sync_block();
    all = 0;
    for (int w = 0; w < threads_in_block() / 32; w++) {
        if (w < warp()) before += space[w];
        all += space[w];
    }
    sync_block();
    return before;
}

// What is drawn from: tokens of a row, and how they weigh.
struct Source {
    const Rows &rows;
    const int row, first, end;
    const uint32_t *allowed;
    const float greatest, temperature;

    DEVICE_MEMBER uint32_t depth_of(int token) const {
        if (!allows(allowed, token)) return TOO_DEEP;
        return depth(plain(rows, row, token), greatest, temperature);
    }
};

// Tokens less deep than `depth`, and so many that are just as deep.
struct Cut {
    uint32_t depth;
    uint64_t ties;
    uint64_t mass; // of them all
};

// The least deep cut with so many tokens, or with so much mass. Where there is less, all.
DEVICE Cut find_cut(const Source &of, bool by_mass, uint64_t wanted, Shared &s) {
    uint64_t count_before = 0, mass_before = 0;
    uint32_t above = 0; // digits so far
    for (int shift = 20; shift >= 0; shift -= 10) {
        const int bins = shift == 20 ? BINS : 1024;
        for (int i = thread_index(); i < bins; i += threads_in_block()) s.counts[i] = 0, s.masses[i] = 0;
        sync_block();
#pragma unroll 4
        for (int token = of.first + thread_index(); token < of.end; token += threads_in_block()) {
            const uint32_t deep = of.depth_of(token);
            if (deep == TOO_DEEP || (shift < 20 && deep >> (shift + 10) != above)) continue;
            const uint32_t bin = shift == 20 ? deep >> 20 : deep >> shift & 1023;
            add_shared(&s.counts[bin], 1u);
            add_shared(&s.masses[bin], weight(deep));
        }
        sync_block();
        const int each = (bins + threads_in_block() - 1) / threads_in_block(), start = thread_index() * each;
        uint64_t count = 0, mass = 0, counts, masses;
        for (int i = start; i < min(start + each, bins); i++) count += s.counts[i], mass += s.masses[i];
        uint64_t counted = scan(count, s.warps[0], counts) + count_before, weighed = scan(mass, s.warps[1], masses) + mass_before;
        if (shift == 20 && wanted > (by_mass ? masses : counts)) return {TOO_DEEP, 0, masses};
        for (int i = start; i < min(start + each, bins); i++) {
            const uint64_t so_far = by_mass ? weighed : counted, own = by_mass ? s.masses[i] : s.counts[i];
            if (so_far < wanted && wanted <= so_far + own) s.bin = i, s.count_before = counted, s.mass_before = weighed;
            counted += s.counts[i];
            weighed += s.masses[i];
        }
        sync_block();
        above = above << 10 | s.bin; // the first digit has no digits above
        count_before = s.count_before;
        mass_before = s.mass_before;
        sync_block();
    }
    const uint64_t each = weight(above), ties = by_mass ? (wanted - mass_before + each - 1) / each : wanted - count_before;
    return {above, ties, mass_before + ties * each};
}

// The mass of all tokens.
DEVICE uint64_t whole_mass(const Source &of, Shared &s) {
    uint64_t mine = 0, all;
#pragma unroll 4
    for (int token = of.first + thread_index(); token < of.end; token += threads_in_block()) {
        const uint32_t deep = of.depth_of(token);
        if (deep != TOO_DEEP) mine += weight(deep);
    }
    scan(mine, s.warps[0], all);
    return all;
}

DEVICE Cut less_deep(Cut a, Cut b) { return b.depth < a.depth || (b.depth == a.depth && b.ties < a.ties) ? b : a; }

// Draws from what a cut leaves, in an order of its own: thread by thread, which also says which ties are left. `unit` says
// where, in 2⁻⁵³.
DEVICE void pick(const Source &of, Cut cut, uint64_t unit, Outcome *to, Shared &s) {
    uint64_t ties = 0, mass = 0, all;
#pragma unroll 4
    for (int token = of.first + thread_index(); token < of.end; token += threads_in_block()) {
        const uint32_t deep = of.depth_of(token);
        if (deep == TOO_DEEP) continue;
        if (deep < cut.depth) mass += weight(deep);
        ties += deep == cut.depth;
    }
    const uint64_t before = scan(ties, s.warps[0], all);
    uint64_t own = before < cut.ties ? min(cut.ties - before, ties) : 0;
    if (own > 0) mass += own * weight(cut.depth);
    const uint64_t start = scan(mass, s.warps[1], all), target = multiply_high(unit << 11, all);
    if (target < start || target >= start + mass) return;
    uint64_t rest = target - start;
    for (int token = of.first + thread_index(); token < of.end; token += threads_in_block()) {
        const uint32_t deep = of.depth_of(token);
        const bool tie = deep == cut.depth && deep != TOO_DEEP;
        if (deep == TOO_DEEP || deep > cut.depth || (tie && own == 0)) continue;
        own -= tie;
        if (rest < weight(deep)) {
            to->token = token;
            to->logit = plain(of.rows, of.row, token);
            return;
        }
        rest -= weight(deep);
    }
}

KERNEL(512, 1) draw(const Rows r) {
    Shared &s = *(Shared *)shared_memory();
    let_next_start();
    wait_for_previous();
    const int row = block_x();
    const Draw d = r.draws[row];
    Outcome *to = r.outcomes + row;
    // A chunk for each lane, the same in all warps.
    Chunk c = {nothing(), nothing(), NO_TOKEN, 0, 0, nothing(), NO_TOKEN, 0};
    if (lane() < r.chunks_count) c = r.chunks[row * r.chunks_count + lane()];
    const Best best = warp_best({c.max, c.top}), allowed = warp_best({c.allowed_max, c.allowed_top});
    const float second = warp_max(c.top == best.at ? c.second : c.max);
    const float back = c.max > nothing() ? c.max - best.value : 0.0f, share = c.max > nothing() ? exp2_fast(back * LOG2_E) : 0.0f;
    const float sum = warp_sum(c.sum * share), weighted = warp_sum(share * (c.weighted + back * c.sum));
    if (thread_index() == 0) {
        to->top = best.at == NO_TOKEN ? 0 : best.at;
        to->max = best.value;
        const bool sure = !is_finite(best.value);
        to->log_sum = sure ? 0.0f : fmaxf(logf(sum), 0.0f);
        to->entropy = sure ? 0.0f : fmaxf(logf(sum) - weighted / sum, 0.0f);
        to->top1 = sure ? 1.0f : 1.0f / sum;
        to->top2 = sure || !(second > nothing()) ? 0.0f : exp2_fast((second - best.value) * LOG2_E) / sum;
        const uint32_t token = allowed.at == NO_TOKEN ? 0 : allowed.at;
        to->token = d.how == NOT ? NO_TOKEN : token;
        to->logit = plain(r, row, token);
    }
    sync_block();
    if (d.how != RANDOM || !is_finite(allowed.value)) return;

    const uint32_t *words = d.formed ? r.allowed + first_word(r, row) : nullptr;
    const uint64_t unit = (uint64_t)d.unit_high << 32 | d.unit_low;
    if (d.top_k == 0 && d.top_p >= 1.0f && d.min_p <= 0.0f) {
        // From all: first a chunk, then a token of it.
        float *masses = (float *)s.counts;
        const float mass = c.allowed_max > nothing() ? c.mass * exp2_fast((c.allowed_max - allowed.value) / d.temperature * LOG2_E) : 0.0f;
        if (thread_index() < 32) masses[thread_index()] = mass;
        sync_block();
        double all = 0;
        for (int i = 0; i < r.chunks_count; i++) all += masses[i];
        double rest = (double)unit / 9007199254740992.0 * all;
        int chosen = -1; // the last that has mass, if by rounding none is left
        for (int i = 0; i < r.chunks_count; i++) {
            if (!(masses[i] > 0.0f)) continue;
            if (chosen >= 0) {
                if (rest < masses[chosen]) break;
                rest -= masses[chosen];
            }
            chosen = i;
        }
        // Only rounding makes it 1.
        const double inside = fmin(fmax(rest / masses[chosen], 0.0), 1.0 - 1.0 / 9007199254740992.0);
        const float greatest = r.chunks[row * r.chunks_count + chosen].allowed_max;
        const int first = chosen * r.chunk_tokens;
        sync_block();
        pick({r, row, first, min(first + r.chunk_tokens, r.vocabulary), words, greatest, d.temperature}, {TOO_DEEP, 0, 0},
             (uint64_t)(inside * 9007199254740992.0), to, s);
        return;
    }
    const Source all = {r, row, 0, r.vocabulary, words, allowed.value, d.temperature};
    Cut cut = {TOO_DEEP, 0, 0};
    if (d.top_k > 0) cut = find_cut(all, false, d.top_k, s);
    if (d.top_p < 1.0f) {
        // A share of what top-k left, or of all.
        if (d.top_k == 0) cut.mass = whole_mass(all, s);
        const uint64_t share = (uint64_t)(d.top_p * (double)cut.mass);
        cut = less_deep(cut, find_cut(all, true, max(share, (uint64_t)1), s));
    }
    if (d.min_p > 0.0f) {
        const float least = -log2f(d.min_p);
        if (least < (float)WEIGHT_BITS) cut = less_deep(cut, {(uint32_t)(least * (float)(1 << DEPTH_BITS)) + 1, 0, 0});
    }
    pick(all, cut, unit, to, s);
}
ENTRY(draw)
