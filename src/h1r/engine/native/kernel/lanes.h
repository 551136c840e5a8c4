// Vectors of floats as wide as the machine's registers, and the few things C++ has no operator for.
//
// GCC's and Clang's vector extensions give arithmetic for AVX-512, AVX2, NEON and plain C++ from one source; intrinsics
// stand only where the compiler cannot see the instruction (fused multiply-add, bf16 and int8 dot products).
// Contraction is off (-ffp-contract=off): a product is fused with a sum exactly where `fma` says so, so that prompt and
// decode, batch and single, compute the same bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef float vfu __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t viu __attribute__((vector_size(W * 4), aligned(2), may_alias));
typedef uint16_t vh __attribute__((vector_size(W * 2)));
typedef uint16_t vhu __attribute__((vector_size(W * 2), aligned(2), may_alias));
typedef uint16_t bf16;

static inline vf load(const float* p) { return *(const vfu*)p; }
static inline void store(float* p, vf x) { *(vfu*)p = x; }
static inline vf all(float x) { return x - (vf){}; }
static inline vi alli(int32_t x) { return x - (vi){}; }

// The first n lanes of p, zeros in the others; and back.
static inline vf load(const float* p, int n) {
    if (n >= W) return load(p);
    float t[W] = {};
    for (int i = 0; i < n; i++) t[i] = p[i];
    return load(t);
}
static inline void store(float* p, vf x, int n) {
    if (n >= W) return store(p, x);
    for (int i = 0; i < n; i++) p[i] = x[i];
}

static inline vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

static inline vf larger(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

static inline float sum(vf x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float t[W];
    store(t, x);
    for (int step = W / 2; step; step /= 2)
        for (int i = 0; i < step; i++) t[i] += t[i + step];
    return t[0];
#endif
}
static inline float largest(vf x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float s = x[0];
    for (int i = 1; i < W; i++) s = x[i] > s ? x[i] : s;
    return s;
#endif
}

// 2^x, relative error 2e-8 from the polynomial; x <= -127 gives 0. Never called with x above 127.
static inline vf exp2v(vf x) {
    const vf magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
    vf low = all(-127.0f);
    vf y = larger(x, low);
    vf shifted = y + magic;
    vf f = y - (shifted - magic);
    vf p = all(1.5353362e-4f);
    p = fma(p, f, all(1.3398874e-3f));
    p = fma(p, f, all(9.6184370e-3f));
    p = fma(p, f, all(5.5503290e-2f));
    p = fma(p, f, all(2.4022648e-1f));
    p = fma(p, f, all(6.9314720e-1f));
    p = fma(p, f, all(1.0f));
    vi scale = ((vi)shifted - (vi)magic + 127) << 23;  // exponent -127 becomes a scale of 0
    return p * (vf)scale;
}
constexpr float LOG2E = 1.44269504088896340736f;
static inline vf expv(vf x) { return exp2v(x * LOG2E); }
// log(1 + e^x), accurate relative to its value: with s = e / (2 + e), log(1 + e) = 2 (s + s^3/3 + s^5/5 + ...).
static inline vf softplus(vf x) {
    vf high = larger(x, (vf){});
    vf e = expv(x - 2.0f * high);  // e^-|x|
    vf s = e / (2.0f + e), q = s * s, p = all(1.0f / 15);
    for (float n : {13.0f, 11.0f, 9.0f, 7.0f, 5.0f, 3.0f, 1.0f}) p = fma(p, q, all(1.0f / n));
    return fma(2.0f * s, p, high);
}
// Finite for every x: the exponent is cut at 126.
static inline vf silu(vf x) {
    vf e = exp2v(-larger(-all(126.0f), x * LOG2E));
    return x / (1.0f + e);
}

// bf16, rounded to nearest even.
static inline bf16 narrow(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    if ((b & 0x7fffffff) > 0x7f800000) return (bf16)((b >> 16) | 64);
    return (bf16)((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}
static inline float widen(bf16 x) {
    uint32_t b = (uint32_t)x << 16;
    float f;
    memcpy(&f, &b, 4);
    return f;
}
static inline vf widen(const bf16* p) {
    vi wide = __builtin_convertvector(*(const vhu*)p, vi);
    return (vf)(wide << 16);
}
static inline void narrow(bf16* p, vf x) {
#if defined(__AVX512BF16__)
    __m256bh h = _mm512_cvtneps_pbh((__m512)x);
    memcpy(p, &h, 32);
    return;
#endif
    vi b = (vi)x;
    vi odd = (b >> 16) & 1;
    vi r = (b + 0x7fff + odd) >> 16;
    r = x != x ? ((b >> 16) | 64) : r;
    *(vhu*)p = __builtin_convertvector(r, vh);
}
static inline void narrow(bf16* p, const float* x, int n) {
    int i = 0;
    for (; i + W <= n; i += W) narrow(p + i, load(x + i));
    for (; i < n; i++) p[i] = narrow(x[i]);
}

static inline int up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }
