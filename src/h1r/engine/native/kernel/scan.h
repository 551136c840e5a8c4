// The convolution and the scan of one sequence's rows, in place, from and to its cached states.
#pragma once
#include "model.h"

// Channels [first, first + n), n <= W, of rows x[t * pitch]: causal convolution with `taps` weights, bias, SiLU, in place.
// state [K-1] rows of C channels, oldest first; `fresh`: it counts as zeros.
template <int taps>
static void convolve(float* x, int64_t pitch, int rows, const float* weight, const float* bias, float* state, int C, bool fresh, int first, int n) {
    vf past[taps] = {}, w[taps];
    for (int k = 0; k < taps; k++) w[k] = load(weight + (int64_t)k * C + first, n);
    for (int k = 0; k + 1 < taps; k++) past[k] = fresh ? (vf){} : load(state + (int64_t)k * C + first, n);
    vf b = bias ? load(bias + first, n) : (vf){};
    x += first;
    for (int t = 0; t < rows; t++, x += pitch) {
        vf u = load(x, n), y = b;
        for (int k = 0; k + 1 < taps; k++) y = fma(past[k], w[k], y);
        y = fma(u, w[taps - 1], y);
        store(x, silu(y), n);
        for (int k = 0; k + 2 < taps; k++) past[k] = past[k + 1];
        past[taps - 2] = u;
    }
    for (int k = 0; k + 1 < taps; k++) store(state + (int64_t)k * C + first, past[k], n);
}

static void convolve(int taps, float* x, int64_t pitch, int rows, const float* weight, const float* bias, float* state, int C, bool fresh, int first, int n) {
    switch (taps) {
        case 2: return convolve<2>(x, pitch, rows, weight, bias, state, C, fresh, first, n);
        case 3: return convolve<3>(x, pitch, rows, weight, bias, state, C, fresh, first, n);
        case 4: return convolve<4>(x, pitch, rows, weight, bias, state, C, fresh, first, n);
        case 5: return convolve<5>(x, pitch, rows, weight, bias, state, C, fresh, first, n);
        case 6: return convolve<6>(x, pitch, rows, weight, bias, state, C, fresh, first, n);
        case 7: return convolve<7>(x, pitch, rows, weight, bias, state, C, fresh, first, n);
        default: return convolve<8>(x, pitch, rows, weight, bias, state, C, fresh, first, n);
    }
}

// Step sizes softplus(dt + bias) within their limits, and decays e^(step a), of n heads.
static void step_sizes(const Shape& p, const float* dt, const float* bias, const float* a, float* step, float* decay) {
    for (int h = 0; h < p.heads; h += W) {
        int n = p.heads - h;
        vf s = softplus(load(dt + h, n) + load(bias + h, n));
        s = larger(s, all(p.dt_low));
        s = s > p.dt_high ? all(p.dt_high) : s;
        store(step + h, s, n);
        store(decay + h, expv(s * load(a + h, n)), n);
    }
}

// One token: S = decay S + xdt b^T, y = S c, for NV vectors of channels. s [N][pitch].
template <int NV>
static void scan_one(float* s, int pitch, int N, float decay, const float* xdt, const float* b, const float* c, float* y) {
    vf acc[NV] = {}, x[NV];
    for (int j = 0; j < NV; j++) x[j] = load(xdt + j * W);
    for (int n = 0; n < N; n++, s += pitch)
        for (int j = 0; j < NV; j++) {
            vf v = fma(load(s + j * W), all(decay), x[j] * b[n]);
            store(s + j * W, v);
            acc[j] = fma(v, all(c[n]), acc[j]);
        }
    for (int j = 0; j < NV; j++) store(y + j * W, acc[j]);
}

// Four tokens in one pass over the state: the same operations in the same order as four calls of scan_one.
template <int NV>
static void scan_four(float* s, int pitch, int N, const float* decay, const float* xdt, const float* b, const float* c, int64_t row, float* y) {
    vf acc[4][NV] = {}, x[4][NV];
    for (int t = 0; t < 4; t++)
        for (int j = 0; j < NV; j++) x[t][j] = load(xdt + t * pitch + j * W);
    for (int n = 0; n < N; n++, s += pitch)
        for (int j = 0; j < NV; j++) {
            vf v = load(s + j * W);
            for (int t = 0; t < 4; t++) {
                v = fma(v, all(decay[t]), x[t][j] * b[t * row + n]);
                acc[t][j] = fma(v, all(c[t * row + n]), acc[t][j]);
            }
            store(s + j * W, v);
        }
    for (int t = 0; t < 4; t++)
        for (int j = 0; j < NV; j++) store(y + t * pitch + j * W, acc[t][j]);
}

template <int NV>
static void scan_lanes(int rows, float* s, int pitch, int N, const float* decay, const float* xdt, const float* b, const float* c, int64_t row, float* y) {
    if (rows == 4) {
        constexpr int PART = NV < 2 ? NV : 2;
        for (int j = 0; j < NV; j += PART) scan_four<PART>(s + j * W, pitch, N, decay, xdt + j * W, b, c, row, y + j * W);
    } else {
        for (int t = 0; t < rows; t++) scan_one<NV>(s, pitch, N, decay[t], xdt + t * pitch, b + t * row, c + t * row, y + t * pitch);
    }
}

// One head of one sequence. x, b, c point into rows of the convolved buffer, `row` floats apart; dt, decay [rows][heads]
// for this head; out: y + D x, rows `out_row` floats apart. state [N][lanes] fp32 (or bf16), updated.
static void scan_head(const Shape& p, int rows, const float* x, const float* b, const float* c, int64_t row, const float* dt, const float* decay, int64_t dt_row, float skip, uint8_t* state, bool fresh, float* out, int64_t out_row, float* scratch) {
    int L = p.lanes(), N = p.state, P = p.channels;
    float* s = (float*)state;
    if (p.state_bf16) {
        s = scratch;
        scratch += N * L;
        if (!fresh)
            for (int i = 0; i < N * L; i += W) store(s + i, widen((const bf16*)state + i));
    }
    if (fresh) memset(s, 0, sizeof(float) * N * L);
    float *xdt = scratch, *y = scratch + 4 * L, gone[4];
    memset(xdt, 0, sizeof(float) * 4 * L);
    for (int t = 0; t < rows;) {
        int take = rows - t >= 4 ? 4 : 1;
        for (int i = 0; i < take; i++) {
            gone[i] = decay[(t + i) * dt_row];
            float step = dt[(t + i) * dt_row];
            for (int j = 0; j < P; j++) xdt[i * L + j] = x[(t + i) * row + j] * step;
        }
        const float *bt = b + t * row, *ct = c + t * row;
        for (int j = 0; j < L;) {
            int left = L - j, n = left >= 128 && W == 16 ? 128 : left >= 64 ? 64 : left >= 32 ? 32 : 16;
            auto* run = n == 128 ? scan_lanes<128 / W> : n == 64 ? scan_lanes<64 / W> : n == 32 ? scan_lanes<32 / W> : scan_lanes<16 / W>;
            run(take, s + j, L, N, gone, xdt + j, bt, ct, row, y + j);
            j += n;
        }
        for (int i = 0; i < take; i++)
            for (int j = 0; j < P; j++) out[(t + i) * out_row + j] = std::fma(x[(t + i) * row + j], skip, y[i * L + j]);
        t += take;
    }
    if (p.state_bf16)
        for (int i = 0; i < N * L; i += W) narrow((bf16*)state + i, load(s + i));
}
