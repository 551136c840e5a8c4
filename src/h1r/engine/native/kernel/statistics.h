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
    vf odd = {};  // nan from the first nan on, which the exponential would swallow
    while (i + W <= V) {  // partial sums of 4096, so that fp32 loses nothing that matters
        vf s = {};
        for (int end = std::min(V - W, i + 4096); i <= end; i += W) {
            vf v = load(x + i) - best;
            odd += v * 0.0f;
            s += expv(v * inverse);
        }
        total += sum(s) + sum(odd);
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

// How many of `values` (descending) a nucleus keeps: those before which less than p of the `whole` mass stands, one at least.
static float last_kept(const std::vector<float>& values, float best, float temperature, double before, double target) {
    float last = values[0];
    for (float v : values) {
        if (before >= target) break;
        last = v;
        before += expv(all((v - best) / temperature))[0];
    }
    return last;
}

// The smallest x / temperature that top-k (0: off), top-p (1: off) and min-p (0: off) keep.
static float row_floor(const float* x, int V, float temperature, int64_t top_k, float top_p, float min_p, std::vector<float>& found) {
    float best = row_max(x, V), floor = -std::numeric_limits<float>::infinity();
    bool few = top_k > 0 && top_k < V;
    if (few) {
        found.assign(x, x + V);
        std::nth_element(found.begin(), found.begin() + top_k - 1, found.end(), std::greater<float>());
        float least = found[top_k - 1];
        floor = least / temperature;
        if (top_p < 1) {
            found.clear();
            for (int i = 0; i < V; i++)
                if (x[i] >= least) found.push_back(x[i]);
            std::sort(found.begin(), found.end(), std::greater<float>());
            double total = 0;
            for (float v : found) total += expv(all((v - best) / temperature))[0];
            floor = std::max(floor, last_kept(found, best, temperature, 0, top_p * total) / temperature);
        }
    } else if (top_p < 1) {
        // Mass by distance from the best in bins of 1/64; the bin in which p is reached is sorted.
        constexpr int BINS = 2048;
        double mass[BINS] = {}, total = 0, before = 0;
        auto bin = [&](float v) {
            float d = (best - v) / temperature * 64.0f;
            return d < BINS - 1 ? (int)d : BINS - 1;
        };
        alignas(64) float weights[W];
        int i = 0;
        for (; i + W <= V; i += W) {
            store(weights, expv((load(x + i) - best) / temperature));
            for (int j = 0; j < W; j++) mass[bin(x[i + j])] += weights[j];
        }
        for (; i < V; i++) mass[bin(x[i])] += expv(all((x[i] - best) / temperature))[0];
        for (double m : mass) total += m;
        int b = 0;
        while (b + 1 < BINS && before + mass[b] < top_p * total) before += mass[b++];
        found.clear();
        for (i = 0; i < V; i++)
            if (bin(x[i]) == b) found.push_back(x[i]);
        std::sort(found.begin(), found.end(), std::greater<float>());
        if (!found.empty()) floor = last_kept(found, best, temperature, before, top_p * total) / temperature;
    }
    if (min_p > 0) floor = std::max(floor, best / temperature + std::log(min_p));
    return floor;
}

extern "C" {

// The smallest logits / temperature each row keeps [B]; top_k int64, the others fp32, all [B].
void h1r_floors(const float* logits, int B, int V, const float* temperature, const int64_t* top_k, const float* top_p, const float* min_p, float* floor, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> found;
#pragma omp for schedule(dynamic, 1)
        for (int b = 0; b < B; b++)
            floor[b] = row_floor(logits + (int64_t)b * V, V, temperature[b], top_k[b], top_p[b], min_p[b], found);
    }
}

// top [B][count] descending (count 0: none), lse [B] at the given temperatures [B] (null: 1), best [B]: the first largest.
void h1r_statistics(const float* logits, int B, int V, int count, const float* temperature, float* top, float* lse, int64_t* best, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> found;
#pragma omp for schedule(dynamic, 1)
        for (int b = 0; b < B; b++) {
            const float* x = logits + (int64_t)b * V;
            lse[b] = row_lse(x, V, temperature ? temperature[b] : 1.0f);
            float most = row_max(x, V);
            int i = 0;
            while (i + 1 < V && x[i] != most) i++;
            best[b] = i;
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
