// What happens to a row between two products: norms, rotation, gates.
#pragma once
#include "model.h"

static float mean_square(const float* x, int n) {
    vf s[4] = {};
    int i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (int j = 0; j < 4; j++) {
            vf v = load(x + i + j * W);
            s[j] = fma(v, v, s[j]);
        }
    for (; i < n; i += W) {
        vf v = load(x + i, n - i);
        s[0] = fma(v, v, s[0]);
    }
    return sum((s[0] + s[1]) + (s[2] + s[3])) / n;
}

// out = x / rms(x), times weight where there is one.
static void unit(const float* x, const float* weight, int n, float eps, float* out) {
    float r = 1.0f / std::sqrt(mean_square(x, n) + eps);
    for (int i = 0; i < n; i += W) {
        vf v = load(x + i, n - i) * r;
        if (weight) v *= load(weight + i, n - i);
        store(out + i, v, n - i);
    }
}

// Rotary positions, half-split: channel i turns with i + d/2; then times `scale`. out may be x.
static void turn(const float* x, int d, const float* cosine, const float* sine, float scale, float* out) {
    int half = d / 2;
    for (int i = 0; i < half; i += W) {
        int n = half - i;
        vf a = load(x + i, n), b = load(x + half + i, n), c = load(cosine + i, n), s = load(sine + i, n);
        store(out + i, (a * c - b * s) * scale, n);
        store(out + half + i, (b * c + a * s) * scale, n);
    }
}

// y [inner] gated by z, with the gated norm where the model has one.
static void gate(const Shape& p, float* y, const float* z) {
    int n = p.inner, group = n / p.bc_groups;
    auto close = [&]() {
        for (int i = 0; i < n; i += W) store(y + i, load(y + i, n - i) * silu(load(z + i, n - i)), n - i);
    };
    if (!p.gated_norm) return close();
    if (!p.norm_before_gate) close();
    for (int g = 0; g < n; g += group) unit(y + g, nullptr, group, p.eps, y + g);
    if (p.norm_before_gate) close();
}
