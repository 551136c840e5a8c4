// Attention of one kv-head's queries over paged keys and values: blocks of 64 keys, online softmax in base 2 (scores
// arrive multiplied by log2 e / sqrt d). Keys are cut into spans of SPAN tokens, each summed on its own and merged in
// order, so that several threads may share one long context and a row's bits depend on its position alone.
#pragma once
#include "model.h"

constexpr int SPAN = 2048, TILE = 48;  // keys of a span; query rows of a tile

struct Keys {  // one sequence and kv-head
    const uint8_t *k, *v;  // of this layer and head
    int64_t k_page, v_page;
    const int32_t* pages;
    int page, d, dv;
    bool low;
    const uint8_t* block_k(int b) const {
        int per = page / 64, bytes = 64 * d * (low ? 2 : 4);
        return k + pages[b / per] * k_page + (int64_t)(b % per) * bytes;
    }
    const uint8_t* block_v(int b) const {
        int per = page / 64, bytes = 64 * dv * (low ? 2 : 4);
        return v + pages[b / per] * v_page + (int64_t)(b % per) * bytes;
    }
};

// Running softmax of one row: sum of 2^(score - top) and of the same times the values.
struct Running {
    float top, total;
};

// scores[MT][64] of MT rows of queries with a block of keys; the `next` block is brought nearer.
template <int MT>
static void dot_keys(const uint8_t* q, int64_t pitch, const uint8_t* keys, const uint8_t* next, int d, bool low, float* out) {
    vf acc[MT][V64] = {};
    if (low) {
        const int32_t* w = (const int32_t*)keys;
        for (int k = 0; k < d / 2; k++, w += 64) {
            for (int j = 0; j < 4; j++) fetch(next + k * 256 + j * 64);
            for (int i = 0; i < MT; i++)
                for (int j = 0; j < V64; j++)
                    acc[i][j] = dot2(acc[i][j], *(const viu*)(w + j * W), ((const int32_t*)(q + i * pitch))[k]);
        }
    } else {
        const float* w = (const float*)keys;
        for (int k = 0; k < d; k++, w += 64) {
            for (int j = 0; j < 4; j++) fetch(next + k * 256 + j * 64);
            for (int i = 0; i < MT; i++)
                for (int j = 0; j < V64; j++)
                    acc[i][j] = fma(load(w + j * W), all(((const float*)(q + i * pitch))[k]), acc[i][j]);
        }
    }
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < V64; j++) store(out + i * 64 + j * W, acc[i][j]);
}

// out[row][dv] = out * scale + p[row][keys] values, for MT rows and NV vectors of W channels.
template <int MT, int NV>
static void add_values(float* out, int dv, const float* scale, const uint8_t* p, int64_t pitch, const uint8_t* values, const uint8_t* next, int keys, bool low) {
    vf acc[MT][NV];
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < NV; j++) acc[i][j] = load(out + i * dv + j * W) * scale[i];
    if (low) {
        for (int t = 0; t < (keys + 1) / 2; t++) {
            const int32_t* w = (const int32_t*)values + t * dv;
            for (int j = 0; j < NV * W; j += 16) fetch((const int32_t*)next + t * dv + j);
            for (int i = 0; i < MT; i++)
                for (int j = 0; j < NV; j++)
                    acc[i][j] = dot2(acc[i][j], *(const viu*)(w + j * W), ((const int32_t*)(p + i * pitch))[t]);
        }
    } else {
        for (int t = 0; t < keys; t++) {
            const float* w = (const float*)values + t * dv;
            for (int i = 0; i < MT; i++)
                for (int j = 0; j < NV; j++)
                    acc[i][j] = fma(load(w + j * W), all(((const float*)(p + i * pitch))[t]), acc[i][j]);
        }
    }
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < NV; j++) store(out + i * dv + j * W, acc[i][j]);
}

template <int NV>
static void add_rows(float* out, int dv, const float* scale, const uint8_t* p, int64_t pitch, const uint8_t* values, const uint8_t* next, int keys, bool low, int rows) {
    constexpr int MOST = W == 16 ? (NV <= 4 ? 6 : NV <= 8 ? 3 : 1) : 1;
    int i = 0;
    if constexpr (MOST > 1) {
        for (; i + MOST <= rows; i += MOST) add_values<MOST, NV>(out + i * dv, dv, scale + i, p + i * pitch, pitch, values, next, keys, low);
        if constexpr (MOST == 6)
            for (; i + 4 <= rows; i += 4) add_values<4, NV>(out + i * dv, dv, scale + i, p + i * pitch, pitch, values, next, keys, low);
    }
    for (; i < rows; i++) add_values<1, NV>(out + i * dv, dv, scale + i, p + i * pitch, pitch, values, next, keys, low);
}

// The value blocks that one call covers: 16, 32, 64 or 128 channels at a time.
static void add_block(float* out, int dv, const float* scale, const uint8_t* p, int64_t pitch, const uint8_t* values, const uint8_t* next, int keys, bool low, int rows) {
    for (int c = 0; c < dv;) {
        const uint8_t *at = values + c * 4, *then = next + c * 4;  // a pair of bf16, or one float
        int left = dv - c, take;
        if (left >= 128 && W == 16) take = 128, add_rows<128 / W>(out + c, dv, scale, p, pitch, at, then, keys, low, rows);
        else if (left >= 64) take = 64, add_rows<64 / W>(out + c, dv, scale, p, pitch, at, then, keys, low, rows);
        else if (left >= 32) take = 32, add_rows<32 / W>(out + c, dv, scale, p, pitch, at, then, keys, low, rows);
        else take = 16, add_rows<16 / W>(out + c, dv, scale, p, pitch, at, then, keys, low, rows);
        c += take;
    }
}

// Softmax step of one row over a block of 64 scores, of which `seen` count. Writes the weights and the factor for what
// the row has summed so far.
static inline void soften(float* s, int seen, Running& r, float& factor, uint8_t* p, bool low) {
    if (seen <= 0) {
        memset(p, 0, low ? 128 : 256);
        factor = 1.0f;
        return;
    }
    const vf never = all(-std::numeric_limits<float>::infinity());
    vf x[V64], top = never;
    for (int j = 0; j < V64; j++) {
        x[j] = load(s + j * W);
        if (seen < (j + 1) * W) {
            vi lane;
            for (int i = 0; i < W; i++) lane[i] = i + j * W;
            x[j] = lane < seen ? x[j] : never;
        }
        top = larger(top, x[j]);
    }
    float best = largest(top), now = best > r.top ? best : r.top;
    factor = r.top == now ? 1.0f : exp2v(all(r.top - now))[0];
    vf total = {};
    for (int j = 0; j < V64; j++) {
        x[j] = exp2v(x[j] - now);
        total += x[j];
        if (low) narrow((bf16*)p + j * W, x[j]);
        else store((float*)p + j * W, x[j]);
    }
    r.total = r.total * factor + sum(total);
    r.top = now;
}

// Rows [0, rows) of queries, `share` to a token, the first at position `first`, over the keys of span `span`.
// out [rows][dv] and running [rows] are started afresh.
static void attend_span(const uint8_t* q, int64_t pitch, int rows, int share, int first, int span, const Keys& keys, float* out, Running* running) {
    alignas(64) float scores[TILE * 64], factor[TILE];
    alignas(64) uint8_t weights[TILE * 256];
    memset(out, 0, sizeof(float) * rows * keys.dv);
    for (int i = 0; i < rows; i++) running[i] = {-std::numeric_limits<float>::infinity(), 0.0f};
    int last = first + (rows - 1) / share;
    int end = last + 1 < (span + 1) * SPAN ? last + 1 : (span + 1) * SPAN;
    int64_t wide = keys.low ? 128 : 256;
    for (int begin = span * SPAN; begin < end; begin += 64) {
        int b = begin / 64, after = begin + 128 < end ? b + 2 : b;
        const uint8_t *k = keys.block_k(b), *next = keys.block_k(after);
        int i = 0;
        if (W == 16) {
            for (; i + 6 <= rows; i += 6) dot_keys<6>(q + i * pitch, pitch, k, next, keys.d, keys.low, scores + i * 64);
            for (; i + 4 <= rows; i += 4) dot_keys<4>(q + i * pitch, pitch, k, next, keys.d, keys.low, scores + i * 64);
        }
        for (; i < rows; i++) dot_keys<1>(q + i * pitch, pitch, k, next, keys.d, keys.low, scores + i * 64);
        for (i = 0; i < rows; i++) {
            int seen = first + i / share - begin + 1;
            soften(scores + i * 64, seen, running[i], factor[i], weights + i * wide, keys.low);
        }
        int count = end - begin < 64 ? end - begin : 64;
        add_block(out, keys.dv, factor, weights, wide, keys.block_v(b), keys.block_v(after), count, keys.low, rows);
    }
}

// Merge a span's sums into a row's: out and running take what `part` adds.
static void merge(float* out, Running& r, const float* part, const Running& s, int dv) {
    if (s.total == 0.0f) return;
    float now = s.top > r.top ? s.top : r.top;
    float mine = r.total == 0.0f ? 0.0f : exp2v(all(r.top - now))[0], its = exp2v(all(s.top - now))[0];
    for (int c = 0; c < dv; c += W) store(out + c, fma(load(part + c), all(its), load(out + c) * mine));
    r.total = r.total * mine + s.total * its;
    r.top = now;
}

// Write one token's key and value (floats [d]) of one head into its page. `last`: no later token is written in this batch.
static void append(const Cache& c, int layer, int head, int page_size, int32_t page, int offset, const float* k, const float* v, int d, int dv, bool low, bool last) {
    int size = low ? 2 : 4;
    uint8_t* kp = c.k + layer * c.k_layer + page * c.k_page + ((int64_t)head * page_size + offset / 64 * 64) * d * size;
    uint8_t* vp = c.v + layer * c.v_layer + page * c.v_page + (int64_t)head * page_size * dv * size;
    int lane = offset % 64;
    if (low) {
        alignas(64) bf16 x[256 + 64] = {};
        narrow(x, k, d);
        for (int i = 0; i < d / 2; i++) memcpy(kp + (i * 64 + lane) * 4, x + 2 * i, 4);
        narrow(x, v, d);
        memset(x + d, 0, sizeof(bf16) * (dv - d));
        bf16* at = (bf16*)vp + (int64_t)(offset / 2) * dv * 2 + offset % 2;
        // The pair's other half is multiplied by zero until it is written, so it must be finite.
        if (last && offset % 2 == 0)
            for (int i = 0; i < dv; i++) at[2 * i + 1] = 0;
        for (int i = 0; i < dv; i++) at[2 * i] = x[i];
    } else {
        for (int i = 0; i < d; i++) ((float*)kp)[i * 64 + lane] = k[i];
        float* at = (float*)vp + (int64_t)offset * dv;
        for (int i = 0; i < dv; i++) at[i] = i < d ? v[i] : 0.0f;
    }
}
