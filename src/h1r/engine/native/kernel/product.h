// Products of activations with packed weights: out[m][n] = sum_k act[m][k] weight[n][k], 64 outputs and a few rows at a
// time. Every output is summed over k in one order whatever the number of rows, so a row's bits do not depend on its batch.
//
// Packed layouts, blocks of 64 outputs one after another (Mat.stride bytes each):
//   float32   [K][64]
//   bfloat16  [K/2][64][2]
//   int8      per 64 inputs: codes + 128 [16][64][4], scales bf16 [64]
//   int4      per 32 inputs: codes + 8 in nibbles [4][64][4] (low: quads 0..3, high: quads 4..7), scales bf16 [64]
// Integer formats meet activations of 16 bits (scale per row and group, a = 128 hi + lo in two bytes): two dpbusd each.
#pragma once
#include "lanes.h"

enum Format { F32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };
constexpr int N64 = 64, V64 = N64 / W;

struct Mat {
    const uint8_t* data;
    const float* bias;  // [n], padded to 64, or null
    int64_t stride;  // bytes of a block of 64 outputs
    int32_t n, k, format, unused;
};

static inline int group_of(int format) { return format == INT8 ? 64 : format == INT4 ? 32 : format == BF16 ? 2 : 1; }
static inline int padded(int k, int format) { return up(k, group_of(format)); }
static inline int64_t block_bytes(int k, int format) {
    int64_t kp = padded(k, format);
    switch (format) {
        case F32: return kp * 256;
        case BF16: return kp * 128;
        case INT8: return kp / 64 * (64 * 64 + 128);
        default: return kp / 32 * (16 * 64 + 128);
    }
}

// Activations of M rows, in the form their weights want. One buffer; rows `pitch` bytes apart.
struct Act {
    uint8_t* data;
    int64_t pitch;
    int format, k;
    static int64_t row_bytes(int format, int k) {
        int kp = padded(k, format);
        if (format == F32) return up(kp * 4, 64);
        if (format == BF16) return up(kp * 2, 64);
        return up(2 * kp, 64) + up(kp / group_of(format) * 8, 64);
    }
    uint8_t* row(int m) const { return data + m * pitch; }
    // Write row m from K floats.
    void put(int m, const float* x) const {
        if (format == F32) {
            memcpy(row(m), x, (size_t)k * 4);
        } else if (format == BF16) {
            bf16* out = (bf16*)row(m);
            narrow(out, x, k);
            if (k & 1) out[k] = 0;
        } else {
            put_integer(m, x);
        }
    }
    void put_integer(int m, const float* x) const {
        int g = group_of(format), groups = padded(k, format) / g, kp = g * groups;
        int8_t *hi = (int8_t*)row(m), *lo = hi + kp;
        float* scale = (float*)(hi + up(2 * kp, 64));
        int32_t* total = (int32_t*)(scale + groups);
        for (int i = 0; i < groups; i++, x += g, hi += g, lo += g) {
            int n = k - i * g < g ? k - i * g : g;
            float top = 0;
            for (int j = 0; j < n; j++) top = std::fabs(x[j]) > top ? std::fabs(x[j]) : top;
            float s = top / 16256.0f, inverse = top > 0 ? 16256.0f / top : 0.0f;
            int32_t t = 0;
            for (int j = 0; j < g; j++) {
                int32_t a = j < n ? (int32_t)std::nearbyint(x[j] * inverse) : 0;
                int32_t h = (a + 64) >> 7;
                hi[j] = (int8_t)h;
                lo[j] = (int8_t)(a - 128 * h);
                t += a;
            }
            scale[i] = s;
            total[i] = t;
        }
    }
};

#if defined(__AVX512F__)
constexpr int ROWS = 6, ROWS_INTEGER = 2;
#else
constexpr int ROWS = W == 8 ? 1 : 2, ROWS_INTEGER = 1;
#endif
constexpr int AHEAD = 4096;  // bytes prefetched ahead of a stream of weights

// Into the second-level cache: prefetching into the first stalls on its few outstanding misses (half the bandwidth here).
static inline void fetch(const void* p) { __builtin_prefetch(p, 0, 1); }

// float32: out[MT][64].
template <int MT>
static void tile_f32(const Act& a, int m, const uint8_t* data, float* out) {
    const float *w = (const float*)data, *x[MT];
    for (int i = 0; i < MT; i++) x[i] = (const float*)a.row(m + i);
    vf acc[MT][V64] = {};
    for (int k = 0; k < a.k; k++, w += N64) {
        vf b[V64];
        for (int j = 0; j < V64; j++) b[j] = load(w + j * W);
        if (MT == 1)
            for (int j = 0; j < 4; j++) fetch((const char*)(w + j * 16) + AHEAD);
        for (int i = 0; i < MT; i++) {
            vf s = all(x[i][k]);
            for (int j = 0; j < V64; j++) acc[i][j] = fma(b[j], s, acc[i][j]);
        }
    }
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < V64; j++) store(out + i * N64 + j * W, acc[i][j]);
}

// One pair of bf16 inputs: acc += w[.][0] x0 + w[.][1] x1.
static inline vf dot2(vf acc, vi w, int32_t pair) {
#if defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)_mm512_set1_epi32(pair));
#else
    float x0 = widen((bf16)(pair & 0xffff)), x1 = widen((bf16)((uint32_t)pair >> 16));
    acc = fma((vf)(w << 16), all(x0), acc);
    return fma((vf)(w & (int32_t)0xffff0000), all(x1), acc);
#endif
}

// bfloat16: out[MT][64].
template <int MT>
static void tile_bf16(const Act& a, int m, const uint8_t* data, float* out) {
    const int32_t *w = (const int32_t*)data, *x[MT];
    for (int i = 0; i < MT; i++) x[i] = (const int32_t*)a.row(m + i);
    vf acc[MT][V64] = {};
    int pairs = (a.k + 1) / 2;
    for (int k = 0; k < pairs; k++, w += N64) {
        vi b[V64];
        for (int j = 0; j < V64; j++) b[j] = *(const viu*)(w + j * W);
        if (MT <= 2)
            for (int j = 0; j < 4; j++) fetch((const char*)(w + j * 16) + AHEAD);
        for (int i = 0; i < MT; i++)
            for (int j = 0; j < V64; j++) acc[i][j] = dot2(acc[i][j], b[j], x[i][k]);
    }
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < V64; j++) store(out + i * N64 + j * W, acc[i][j]);
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
static inline vi dot4(vi acc, vi w, int32_t quad) {
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(quad));
}
#else
// Unsigned bytes of w times signed bytes of the quad.
static inline vi dot4(vi acc, vi w, int32_t quad) {
    for (int b = 0; b < 4; b++) acc += ((w >> (8 * b)) & 255) * alli((int8_t)(quad >> (8 * b)));
    return acc;
}
#if defined(__AVX2__) && !defined(__AVX512F__)
#define PAIRS
// The two halves of every lane times those of the pair, summed.
static inline vi dot_pairs(vi w, int32_t pair) { return (vi)_mm256_madd_epi16((__m256i)w, (__m256i)alli(pair)); }
#elif defined(__SSE2__) && !defined(__AVX__)
#define PAIRS
static inline vi dot_pairs(vi w, int32_t pair) { return (vi)_mm_madd_epi16((__m128i)w, (__m128i)alli(pair)); }
#endif
#endif

// int8 (BITS 8) and int4 (BITS 4): out[MT][64].
template <int BITS, int MT>
static void tile_int(const Act& a, int m, const uint8_t* data, float* out) {
    constexpr int G = BITS == 8 ? 64 : 32, QUADS = G / 4, LINES = BITS == 8 ? QUADS : QUADS / 2, OFFSET = 1 << (BITS - 1);
    int kp = up(a.k, G), groups = kp / G;
    const int8_t *hi[MT], *lo[MT];
    const float* scale[MT];
    const int32_t* total[MT];
    for (int i = 0; i < MT; i++) {
        hi[i] = (const int8_t*)a.row(m + i), lo[i] = hi[i] + kp;
        scale[i] = (const float*)(hi[i] + up(2 * kp, 64)), total[i] = (const int32_t*)(scale[i] + groups);
    }
    vf acc[MT][V64] = {};
    for (int g = 0; g < groups; g++) {
#if defined(PAIRS)
        // both bytes of an activation at once, in the same integers: a sum over a group fits into 32 bits
        alignas(64) int32_t even[MT][QUADS], odd[MT][QUADS];
        for (int i = 0; i < MT; i++)
            for (int q = 0; q < QUADS; q++) {
                const int8_t *x = hi[i] + g * G + 4 * q, *y = lo[i] + g * G + 4 * q;
                even[i][q] = ((128 * x[0] + y[0]) & 0xffff) | (int32_t)((uint32_t)(128 * x[2] + y[2]) << 16);
                odd[i][q] = ((128 * x[1] + y[1]) & 0xffff) | (int32_t)((uint32_t)(128 * x[3] + y[3]) << 16);
            }
#endif
        vi h[MT][V64] = {}, l[MT][V64];
        for (int i = 0; i < MT; i++)
            for (int j = 0; j < V64; j++) l[i][j] = alli(-OFFSET * total[i][g]);
        auto multiply = [&](int j, vi w, int q) {
            for (int i = 0; i < MT; i++) {
#if defined(PAIRS)
                l[i][j] += dot_pairs(w & 0x00ff00ff, even[i][q]) + dot_pairs((w >> 8) & 0x00ff00ff, odd[i][q]);
#else
                int32_t x, y;
                memcpy(&x, hi[i] + g * G + 4 * q, 4);
                memcpy(&y, lo[i] + g * G + 4 * q, 4);
                h[i][j] = dot4(h[i][j], w, x);
                l[i][j] = dot4(l[i][j], w, y);
#endif
            }
        };
        for (int q = 0; q < LINES; q++, data += 256) {
            for (int j = 0; j < 4; j++) fetch(data + j * 64 + AHEAD);
            for (int j = 0; j < V64; j++) {
                vi w = *(const viu*)(data + j * W * 4);
                if (BITS == 8) {
                    multiply(j, w, q);
                } else {
                    multiply(j, w & 0x0f0f0f0f, q);
                    multiply(j, (w >> 4) & 0x0f0f0f0f, q + LINES);
                }
            }
        }
        for (int j = 0; j < V64; j++) {
            vf s = widen((const bf16*)data + j * W);
            for (int i = 0; i < MT; i++) {
                vi v = (h[i][j] << 7) + l[i][j];
                acc[i][j] = fma(__builtin_convertvector(v, vf), s * scale[i][g], acc[i][j]);
            }
        }
        data += 128;
    }
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < V64; j++) store(out + i * N64 + j * W, acc[i][j]);
}

template <int MT>
static void tile(const Act& a, int m, const uint8_t* data, float* out) {
    switch (a.format) {
        case F32: return tile_f32<MT>(a, m, data, out);
        case BF16: return tile_bf16<MT>(a, m, data, out);
        default: break;
    }
    constexpr int MI = MT < ROWS_INTEGER ? MT : ROWS_INTEGER;
    if (a.format == INT8) return tile_int<8, MI>(a, m, data, out);
    return tile_int<4, MI>(a, m, data, out);
}

// Block `block` of the outputs for rows [0, M): calls done(m, rows, tile [rows][64]) for each group of rows.
template <class Done>
static void product(const Act& a, int M, const Mat& w, int block, const Done& done) {
    alignas(64) float out[ROWS * N64];
    const uint8_t* data = w.data + block * w.stride;
    int most = a.format >= INT8 ? ROWS_INTEGER : ROWS;
    int tiles = (M + most - 1) / most;
    for (int t = 0, m = 0; t < tiles; t++) {
        int rows = (M - m + tiles - t - 1) / (tiles - t);
        switch (rows) {
            case 1: tile<1>(a, m, data, out); break;
            case 2: tile<2>(a, m, data, out); break;
#if defined(__AVX512F__)
            case 3: tile<3>(a, m, data, out); break;
            case 4: tile<4>(a, m, data, out); break;
            case 5: tile<5>(a, m, data, out); break;
            default: tile<6>(a, m, data, out); break;
#endif
        }
        if (w.bias)
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < N64; j++) out[i * N64 + j] += w.bias[block * N64 + j];
        done(m, rows, out);
        m += rows;
    }
}
static inline int blocks(const Mat& w) { return (w.n + N64 - 1) / N64; }

// Packing. src [n][k] floats, row-major; dst blocks(w) * stride bytes. Rows past n and inputs past k are zero.
static inline bf16 scale_up(float s) {  // the smallest bf16 that is not below s in magnitude
    uint32_t b;
    memcpy(&b, &s, 4);
    return (bf16)((b + 0xffff) >> 16);
}

static double error_of(const float* x, int n, float s, int low, int high) {
    double e = 0;
    for (int i = 0; i < n; i++) {
        float c = std::nearbyint(x[i] / s);
        c = c < low ? low : c > high ? high : c;
        double d = (double)x[i] - (double)(c * s);
        e += d * d;
    }
    return e;
}

// Scale of one group of one output.
static bf16 group_scale(const float* x, int n, int format) {
    float top = 0;
    for (int i = 0; i < n; i++)
        if (std::fabs(x[i]) > std::fabs(top)) top = x[i];
    if (top == 0) return 0;
    if (format == INT8) return scale_up(std::fabs(top) / 127.0f);
    bf16 best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 12; i++) {  // the largest value stands at -8; narrower scales cut it
        bf16 s = narrow(top / -8.0f * (float)((100 - 3 * i) / 100.0));
        double e = s & 0x7fff ? error_of(x, n, widen(s), -8, 7) : least;
        if (e < least) least = e, best = s;
    }
    return best;
}

static void pack_block(const float* src, int64_t pitch, int n, int k, int format, int block, uint8_t* dst) {
    int kp = padded(k, format);
    auto value = [&](int r, int c) -> float {
        int row = block * N64 + r;
        return row < n && c < k ? src[row * pitch + c] : 0.0f;
    };
    if (format == F32) {
        float* out = (float*)dst;
        for (int r = 0; r < N64; r++)
            for (int c = 0; c < kp; c++) out[c * N64 + r] = value(r, c);
        return;
    }
    if (format == BF16) {
        bf16* out = (bf16*)dst;
        for (int r = 0; r < N64; r++)
            for (int c = 0; c < kp; c++) out[(c / 2 * N64 + r) * 2 + c % 2] = narrow(value(r, c));
        return;
    }
    int g = group_of(format), offset = format == INT8 ? 128 : 8, low = format == INT8 ? -127 : -8, high = format == INT8 ? 127 : 7;
    int lines = format == INT8 ? 16 : 4, size = lines * 256 + 128;
    for (int i = 0; i < kp / g; i++, dst += size) {
        memset(dst, 0, size);
        for (int r = 0; r < N64; r++) {
            float x[64];
            for (int c = 0; c < g; c++) x[c] = value(r, i * g + c);
            bf16 s = group_scale(x, g, format);
            ((bf16*)(dst + lines * 256))[r] = s;
            float scale = widen(s);
            for (int c = 0; c < g; c++) {
                float v = scale != 0 ? std::nearbyint(x[c] / scale) : 0.0f;
                int code = (int)(v < low ? low : v > high ? high : v) + offset, quad = c / 4;
                uint8_t* at = dst + (quad % lines * N64 + r) * 4 + c % 4;
                *at |= (uint8_t)(quad < lines ? code : code << 4);
            }
        }
    }
}

// Row `row` of packed weights, as floats [k].
static void unpack_row(const Mat& w, int row, float* out) {
    const uint8_t* data = w.data + row / N64 * w.stride;
    int r = row % N64, g = group_of(w.format);
    if (w.format == F32) {
        for (int c = 0; c < w.k; c++) out[c] = ((const float*)data)[c * N64 + r];
    } else if (w.format == BF16) {
        for (int c = 0; c < w.k; c++) out[c] = widen(((const bf16*)data)[(c / 2 * N64 + r) * 2 + c % 2]);
    } else {
        int lines = w.format == INT8 ? 16 : 4, size = lines * 256 + 128, offset = w.format == INT8 ? 128 : 8;
        for (int c = 0; c < w.k; c++) {
            const uint8_t* at = data + c / g * size;
            int quad = c % g / 4;
            int code = at[(quad % lines * N64 + r) * 4 + c % 4];
            if (w.format == INT4) code = quad < lines ? code & 15 : code >> 4;
            out[c] = (code - offset) * widen(((const bf16*)(at + lines * 256))[r]);
        }
    }
}
