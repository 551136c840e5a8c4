// Of each row of logits what sampling needs: the largest values in order, the log-sum-exp, the draw.
#pragma once
#include <algorithm>
#include <functional>
#include <vector>

#include "lanes.h"

static float row_max(const float* x, int V) {
    vf top = all(-std::numeric_limits<float>::infinity());
    for (int i = 0; i < V; i += W) top = i + W <= V ? larger(top, load(x + i)) : top;
    float best = largest(top);
    for (int i = V / W * W; i < V; i++) best = x[i] > best ? x[i] : best;
    return best;
}

// log sum exp(x / temperature), nan or inf where the row holds one.
static float row_lse(const float* x, int V, float temperature) {
    float best = row_max(x, V), inverse = 1.0f / temperature;
    double total = 0;
    int i = 0;
    while (i + W <= V) {  // partial sums of 4096, so that fp32 loses nothing that matters
        vf s = {};
        for (int end = std::min(V - W, i + 4096); i <= end; i += W) s += expv((load(x + i) - best) * inverse);
        total += sum(s);
    }
    for (; i < V; i++) total += std::exp((x[i] - best) * inverse);
    return (float)(best * (double)inverse + std::log(total));
}

// The `count` largest of a row, descending.
static void row_top(const float* x, int V, int count, float* out, std::vector<float>& found) {
    int each = W;
    while (V / (each * 2) >= 4 * count) each *= 2;
    int number = V / each;
    float bound = -std::numeric_limits<float>::infinity();
    found.clear();
    if (number > count) {
        // The count-th largest of the blocks' maxima: that many elements are at least as large.
        for (int b = 0; b < number; b++) {
            vf top = load(x + b * each);
            for (int i = W; i < each; i += W) top = larger(top, load(x + b * each + i));
            found.push_back(largest(top));
        }
        std::nth_element(found.begin(), found.begin() + count - 1, found.end(), std::greater<float>());
        bound = found[count - 1];
        found.clear();
    }
    int i = 0;
    for (; i + W <= V; i += W) {
        vf v = load(x + i);
        if (largest(v) >= bound)
            for (int j = 0; j < W; j++)
                if (v[j] >= bound) found.push_back(v[j]);
    }
    for (; i < V; i++)
        if (x[i] >= bound) found.push_back(x[i]);
    std::partial_sort_copy(found.begin(), found.end(), out, out + count, std::greater<float>());
}

// Inverse CDF in token order of softmax(x / temperature) cut to x / temperature >= floor: the token, and its log-probability.
static void row_draw(const float* x, int V, float temperature, float floor, double uniform, int64_t* token, float* logp, std::vector<float>& sums) {
    float best = row_max(x, V);
    int number = (V + 63) / 64;
    sums.resize(number);
    auto weight = [&](int i) -> float {
        float t = x[i] / temperature;
        return t >= floor ? expv(all((x[i] - best) / temperature))[0] : 0.0f;
    };
    double total = 0;
    for (int b = 0; b < number; b++) {
        float s = 0;
        int i = b * 64, end = std::min(V, i + 64);
        vf part = {};
        for (; i + W <= end; i += W) {
            vf v = load(x + i), t = v / temperature;
            vf e = expv((v - best) / temperature);
            part += t >= floor ? e : (vf){};
        }
        s = sum(part);
        for (; i < end; i++) s += weight(i);
        sums[b] = s;
        total += s;
    }
    double target = std::min(uniform * total, std::nextafter(total, 0.0)), before = 0;
    int b = 0, chosen = -1;
    while (b + 1 < number && before + sums[b] <= target) before += sums[b++];
    // Inside the block one by one; rounding may leave nothing past the target: then the last token with any weight.
    for (int i = b * 64, end = std::min(V, i + 64); i < end; i++) {
        float p = weight(i);
        if (p > 0) chosen = i;
        before += p;
        if (p > 0 && before > target) break;
    }
    for (int i = 0; chosen < 0; i++)
        if (x[i] == best) chosen = i;
    *token = chosen;
    *logp = (float)((x[chosen] - best) / temperature - std::log(total));
}

extern "C" {

// top [B][count] descending (count 0: none), lse [B] at the given temperatures [B] (null: 1).
void h1r_statistics(const float* logits, int B, int V, int count, const float* temperature, float* top, float* lse, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> found;
#pragma omp for schedule(dynamic, 1)
        for (int b = 0; b < B; b++) {
            const float* x = logits + (int64_t)b * V;
            if (lse) lse[b] = row_lse(x, V, temperature ? temperature[b] : 1.0f);
            if (count) row_top(x, V, count, top + (int64_t)b * count, found);
        }
    }
}

// One token of each row. temperature, floor [B] fp32; uniform [B] in [0, 1).
void h1r_draw(const float* logits, int B, int V, const float* temperature, const float* floor, const double* uniform, int64_t* tokens, float* logp, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> sums;
#pragma omp for schedule(dynamic, 1)
        for (int b = 0; b < B; b++)
            row_draw(logits + (int64_t)b * V, V, temperature[b], floor[b], uniform[b], tokens + b, logp + b, sums);
    }
}
}
