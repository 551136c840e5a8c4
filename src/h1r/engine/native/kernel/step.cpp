// The whole forward step of a hybrid (or pure attention) model on a CPU: rows of any number of sequences, prompt chunks
// and single tokens alike, through all layers in one parallel region. Its reference is model/falcon_h1.py.
#include <omp.h>

#include <cstdlib>

#include "attention.h"
#include "rows.h"
#include "scan.h"
#include "statistics.h"

namespace {

// Memory of a step, grown when needed and kept.
struct Space {
    uint8_t* base = nullptr;
    size_t size = 0, used = 0;
    ~Space() { std::free(base); }
    void reserve(size_t bytes) {
        if (bytes > size) {
            std::free(base);
            base = (uint8_t*)std::aligned_alloc(64, (bytes + 63) / 64 * 64);
            size = base ? bytes : 0;
        }
        used = 0;
    }
    template <class T>
    T* take(size_t count) {
        T* out = (T*)(base + used);
        used += (count * sizeof(T) + 63) / 64 * 64;
        return out;
    }
};

struct Model {
    Shape shape;
    Layer* layers;
    Space space;
};

// Where a row belongs.
struct Place {
    int sequence, position;
};

struct Work {
    const Shape& p;
    const Cache& cache;
    const Batch& b;
    Act unit_act, leave_act, mlp_act;
    float *entered, *mixed, *attended, *dt, *decay, *hidden_mlp, *parts, *scratch;
    uint8_t* queries;
    Running* running;
    Place* places;
    int spans, scratch_size;
    bool single;  // every sequence has one row
};

int64_t query_pitch(const Shape& p) { return (int64_t)p.head_dim * (p.kv_bf16 ? 2 : 4); }

// Norm of each row of h into the activations of the next product.
void enter_rows(const Work& w, const float* h, const Act& act, float* line, int m) {
    unit(h + (int64_t)m * w.p.width, nullptr, w.p.width, w.p.eps, line);
    act.put(m, line);
}

// Rotation of queries and keys, keys and values into the cache, step sizes and decays.
void place_row(const Work& w, const Layer& l, int layer, int m) {
    const Shape& p = w.p;
    const Batch& b = w.b;
    int d = p.head_dim, s = w.places[m].sequence, position = w.places[m].position;
    float* row = w.entered + (int64_t)m * p.enter();
    if (p.inner) {
        int64_t at = (int64_t)m * p.heads;
        step_sizes(p, row + p.inner + p.conv(), l.dt_bias, l.a, w.dt + at, w.decay + at);
        row += p.inner + p.conv() + p.heads;
    }
    const float *cosine = b.cosine + (int64_t)m * (d / 2), *sine = b.sine + (int64_t)m * (d / 2);
    float scale = LOG2E / std::sqrt((float)d), line[512];
    for (int h = 0; h < p.query_heads; h++) {
        const float* q = row + h * d;
        if (p.qk_norm) unit(q, l.q_norm, d, p.eps, line), q = line;
        turn(q, d, cosine, sine, scale, line);
        int kv = h / p.share(), r = h % p.share();
        uint8_t* out = w.queries + (((int64_t)kv * b.rows + m) * p.share() + r) * query_pitch(p);
        if (p.kv_bf16) narrow((bf16*)out, line, d);
        else memcpy(out, line, sizeof(float) * d);
    }
    int32_t page = b.table[(int64_t)s * b.table_width + position / p.page];
    bool last = m + 1 == b.starts[s + 1];
    for (int h = 0; h < p.kv_heads; h++) {
        const float *k = row + p.query() + h * d, *v = row + p.query() + p.kv() + h * d;
        if (p.qk_norm) unit(k, l.k_norm, d, p.eps, line), k = line;
        turn(k, d, cosine, sine, 1.0f, line);
        append(w.cache, layer, h, p.page, page, position % p.page, line, v, d, p.value_dim(), p.kv_bf16, last);
    }
}

// Channels [first, first + count) of one sequence through the convolution.
void convolve_channels(const Work& w, const Layer& l, int layer, int s, int first, int count) {
    const Shape& p = w.p;
    float* state = (float*)(w.cache.conv + layer * w.cache.conv_layer + w.b.slots[s] * w.cache.conv_slot);
    int begin = w.b.starts[s], end = first + count < p.conv() ? first + count : p.conv();
    for (int c = first; c < end; c += W)
        convolve(p.taps, w.entered + (int64_t)begin * p.enter() + p.inner, p.enter(), w.b.starts[s + 1] - begin, l.taps, l.conv_bias, state,
                 p.conv(), w.b.before[s] == 0, c, end - c < W ? end - c : W);
}

Keys keys_of(const Work& w, int layer, int s, int head) {
    const Shape& p = w.p;
    int size = p.kv_bf16 ? 2 : 4;
    return {w.cache.k + layer * w.cache.k_layer + (int64_t)head * p.page * p.head_dim * size,
            w.cache.v + layer * w.cache.v_layer + (int64_t)head * p.page * p.value_dim() * size,
            w.cache.k_page, w.cache.v_page, w.b.table + (int64_t)s * w.b.table_width, p.page, p.head_dim, p.value_dim(),
            (bool)p.kv_bf16};
}

// A span of one sequence's single token: its sums stay apart until `leave_row` merges them.
void attend_single(const Work& w, int layer, int s, int head, int span) {
    const Shape& p = w.p;
    int m = w.b.starts[s], share = p.share();
    int64_t at = ((int64_t)(s * p.kv_heads + head) * w.spans + span) * share;
    attend_span(w.queries + ((int64_t)head * w.b.rows + m) * share * query_pitch(p), query_pitch(p), share, share,
                w.b.before[s], span, keys_of(w, layer, s, head), w.parts + at * p.value_dim(), w.running + at);
}

static void write_attended(const Work& w, int m, int head, int r, const float* out, float total) {
    const Shape& p = w.p;
    float* to = w.attended + (int64_t)m * p.query() + (head * p.share() + r) * p.head_dim;
    for (int i = 0; i < p.head_dim; i++) to[i] = out[i] / total;
}

// A tile of a prompt's tokens: all its spans, merged as they come.
void attend_tile(const Work& w, int layer, int s, int head, int first, int tokens) {
    const Shape& p = w.p;
    int share = p.share(), rows = tokens * share, dv = p.value_dim(), position = w.b.before[s] + first;
    alignas(64) float out[TILE * 256], part[TILE * 256];
    Running running[TILE], one[TILE];
    memset(out, 0, sizeof(float) * rows * dv);
    for (int i = 0; i < rows; i++) running[i] = {-std::numeric_limits<float>::infinity(), 0.0f};
    const uint8_t* q = w.queries + ((int64_t)head * w.b.rows + w.b.starts[s] + first) * share * query_pitch(p);
    Keys keys = keys_of(w, layer, s, head);
    for (int span = 0; span * SPAN < position + tokens; span++) {
        attend_span(q, query_pitch(p), rows, share, position, span, keys, part, one);
        for (int i = 0; i < rows; i++) merge(out + i * dv, running[i], part + i * dv, one[i], dv);
    }
    for (int i = 0; i < rows; i++)
        write_attended(w, w.b.starts[s] + first + i / share, head, i % share, out + i * dv, running[i].total);
}

void scan_task(const Work& w, const Layer& l, int layer, int s, int h, float* scratch) {
    const Shape& p = w.p;
    int m = w.b.starts[s], group = h / (p.heads / p.bc_groups);
    int64_t row = p.enter();
    const float* x = w.entered + m * row + p.inner;
    const float* bb = x + p.inner + group * p.state;
    const float* cc = x + p.inner + (p.bc_groups + group) * p.state;
    int64_t size = p.state_bf16 ? 2 : 4;
    uint8_t* state = w.cache.ssm + layer * w.cache.ssm_layer + w.b.slots[s] * w.cache.ssm_slot + (int64_t)h * p.state * p.lanes() * size;
    scan_head(p, w.b.starts[s + 1] - m, x + h * p.channels, bb, cc, row, w.dt + (int64_t)m * p.heads + h, w.decay + (int64_t)m * p.heads + h, p.heads,
              l.skip[h], state, w.b.before[s] == 0, w.mixed + (int64_t)m * p.inner + h * p.channels, p.inner, scratch);
}

// Both branches of a row into the activations of the product that leaves them.
void leave_row(const Work& w, int m, float* line) {
    const Shape& p = w.p;
    if (p.inner) {
        memcpy(line, w.mixed + (int64_t)m * p.inner, sizeof(float) * p.inner);
        gate(p, line, w.entered + (int64_t)m * p.enter());
    }
    int dv = p.value_dim(), share = p.share();
    if (w.single) {
        int s = w.places[m].sequence, spans = w.places[m].position / SPAN + 1;
        for (int h = 0; h < p.query_heads; h++) {
            int64_t at = ((int64_t)(s * p.kv_heads + h / share) * w.spans) * share + h % share;
            float* out = w.parts + at * dv;
            Running r = w.running[at];
            for (int i = 1; i < spans; i++) merge(out, r, w.parts + (at + (int64_t)i * share) * dv, w.running[at + (int64_t)i * share], dv);
            write_attended(w, m, h / share, h % share, out, r.total);
        }
    }
    memcpy(line + p.inner, w.attended + (int64_t)m * p.query(), sizeof(float) * p.query());
    w.leave_act.put(m, line);
}

// Spans of a single token, tiles of a prompt.
int pieces(const Work& w, int s, int tile) {
    return w.single ? w.b.before[s] / SPAN + 1 : (w.b.starts[s + 1] - w.b.starts[s] + tile - 1) / tile;
}

Work prepare(Model& model, const Cache& cache, const Batch& b) {
    const Shape& p = model.shape;
    int M = b.rows, longest = 0;
    bool single = M == b.sequences;
    for (int s = 0; s < b.sequences; s++) {
        int n = b.before[s] + b.starts[s + 1] - b.starts[s];
        longest = n > longest ? n : longest;
    }
    int spans = (longest + SPAN - 1) / SPAN;
    int widest = p.width > p.inner + p.query() ? p.width : p.inner + p.query();
    widest = widest > p.mlp ? widest : p.mlp;
    int scratch = up(widest, 16) + p.state * p.lanes() + 8 * p.lanes() + 64;
    int64_t parts = single ? (int64_t)b.sequences * p.query_heads * spans : 0;
    int64_t enter = Act::row_bytes(p.format, p.width), leave = Act::row_bytes(p.format, p.inner + p.query()), mlp = Act::row_bytes(p.format, p.mlp);
    int64_t floats = (int64_t)M * (p.enter() + p.inner + p.query() + 2 * p.heads + p.mlp) + parts * p.value_dim() + (int64_t)b.threads * scratch;
    model.space.reserve(floats * 4 + M * (enter + leave + mlp) + (int64_t)M * p.query_heads * query_pitch(p) + parts * sizeof(Running) + M * sizeof(Place) + 32 * 64);
    Space& space = model.space;
    Work w{p, cache, b, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
    w.single = single, w.spans = spans, w.scratch_size = scratch;
    w.unit_act = {space.take<uint8_t>(M * enter), enter, p.format, p.width};
    w.leave_act = {space.take<uint8_t>(M * leave), leave, p.format, p.inner + p.query()};
    w.mlp_act = {space.take<uint8_t>(M * mlp), mlp, p.format, p.mlp};
    w.entered = space.take<float>((int64_t)M * p.enter());
    w.mixed = space.take<float>((int64_t)M * p.inner);
    w.attended = space.take<float>((int64_t)M * p.query());
    w.dt = space.take<float>((int64_t)M * p.heads);
    w.decay = space.take<float>((int64_t)M * p.heads);
    w.hidden_mlp = space.take<float>((int64_t)M * p.mlp);
    w.parts = space.take<float>(parts * p.value_dim());
    w.scratch = space.take<float>((int64_t)b.threads * scratch);
    w.queries = space.take<uint8_t>((int64_t)M * p.query_heads * query_pitch(p));
    w.running = space.take<Running>(parts);
    w.places = space.take<Place>(M);
    for (int s = 0; s < b.sequences; s++)
        for (int m = b.starts[s]; m < b.starts[s + 1]; m++) w.places[m] = {s, b.before[s] + m - b.starts[s]};
    return w;
}

// Copies a tile of a product into rows of `out`, or adds it to them.
struct Put {
    float* out;
    int64_t pitch;
    int n, block;
    bool add;
    void operator()(int m, int rows, const float* t) const {
        int first = block * N64, left = n - first < N64 ? n - first : N64;
        for (int i = 0; i < rows; i++, t += N64) {
            float* o = out + (int64_t)(m + i) * pitch + first;
            for (int j = 0; j < left; j += W) {
                vf x = load(t + j, left - j);
                store(o + j, add ? load(o + j, left - j) + x : x, left - j);
            }
        }
    }
};

// silu(gate) * up of a tile: 32 gates, then their 32 ups.
struct Glu {
    const Work& w;
    int block;
    void operator()(int m, int rows, const float* t) const {
        int first = block * 32, left = w.p.mlp - first < 32 ? w.p.mlp - first : 32;
        for (int i = 0; i < rows; i++, t += N64)
            for (int j = 0; j < left; j += W) {
                vf x = silu(load(t + j)) * load(t + 32 + j);
                if (w.p.format == BF16 && left - j >= W) narrow((bf16*)w.mlp_act.row(m + i) + first + j, x);
                else if (w.p.format == BF16) for (int c = 0; c < left - j; c++) ((bf16*)w.mlp_act.row(m + i))[first + j + c] = narrow(x[c]);
                else if (w.p.format == F32) store((float*)w.mlp_act.row(m + i) + first + j, x, left - j);
                else store(w.hidden_mlp + (int64_t)(m + i) * w.p.mlp + first + j, x, left - j);
            }
    }
};

}  // namespace

extern "C" {

void* h1r_open(const Shape* shape, const Layer* layers) {
    Model* m = new Model{*shape, (Layer*)std::malloc(sizeof(Layer) * shape->layers), {}};
    memcpy(m->layers, layers, sizeof(Layer) * shape->layers);
    return m;
}

void h1r_close(void* handle) {
    Model* m = (Model*)handle;
    std::free(m->layers);
    delete m;
}

// 0, or 1 when memory for the step could not be had.
int h1r_forward(void* handle, const Cache* cache, const Batch* batch) {
    Model& model = *(Model*)handle;
    const Shape& p = model.shape;
    const Batch& b = *batch;
    Work w = prepare(model, *cache, b);
    if (!model.space.base) return 1;
    int M = b.rows, S = b.sequences, share = p.share();
    int tile = TILE / share, row_grain = w.single ? 1 : 16, row_tasks = (M + row_grain - 1) / row_grain;
    int conv_tasks = p.inner && !w.single ? (p.conv() + 63) / 64 : 0;
    // A single token's spans of all heads lie side by side in memory: one task reads them together where there are many.
    int64_t attend = 0;
    for (int s = 0; s < S; s++) attend += pieces(w, s, tile);
    bool together = w.single && attend >= 2 * b.threads;
    if (!together) attend *= p.kv_heads;
    struct Task { int s, head, at; };
    Task* tasks = (Task*)std::malloc(sizeof(Task) * (attend + 1));
    int count = 0;
    for (int s = 0; s < S; s++)
        for (int i = pieces(w, s, tile) - 1; i >= 0; i--)
            for (int h = 0; h < (together ? 1 : p.kv_heads); h++) tasks[count++] = {s, h, i};
    // Heads of one scan task: all of a short step's work in a few tasks, one head each where there is much.
    int grain = 1;
    if (p.inner) {
        int64_t want = (int64_t)S * p.heads / (8 * b.threads);
        if (w.single) grain = want < 1 ? 1 : want > p.heads ? p.heads : (int)want;
    }
    int scan_each = p.inner ? (p.heads + grain - 1) / grain : 0;
#pragma omp parallel num_threads(b.threads)
    {
        float* scratch = w.scratch + (int64_t)omp_get_thread_num() * w.scratch_size;
        for (int layer = 0; layer < p.layers; layer++) {
            const Layer& l = model.layers[layer];
#pragma omp for schedule(static)
            for (int m = 0; m < M; m++) enter_rows(w, b.h, w.unit_act, scratch, m);
#pragma omp for schedule(dynamic, 1)
            for (int n = 0; n < blocks(l.enter); n++) product(w.unit_act, M, l.enter, n, Put{w.entered, p.enter(), l.enter.n, n, false});
#pragma omp for schedule(dynamic, 1)
            for (int t = 0; t < row_tasks + S * conv_tasks; t++) {
                int first = t * row_grain, end = first + row_grain < M ? first + row_grain : M;
                for (int m = first; m < end; m++) place_row(w, l, layer, m);
                if (w.single) convolve_channels(w, l, layer, t, 0, p.conv());
                else if (t >= row_tasks) convolve_channels(w, l, layer, (t - row_tasks) / conv_tasks, (t - row_tasks) % conv_tasks * 64, 64);
            }
#pragma omp for schedule(dynamic, 1)
            for (int t = 0; t < count + S * scan_each; t++) {
                if (t < count) {
                    Task k = tasks[t];
                    if (w.single) {
                        for (int h = k.head; h < (together ? p.kv_heads : k.head + 1); h++) attend_single(w, layer, k.s, h, k.at);
                    } else {
                        int first = k.at * tile, left = b.starts[k.s + 1] - b.starts[k.s] - first;
                        attend_tile(w, layer, k.s, k.head, first, left < tile ? left : tile);
                    }
                    continue;
                }
                int s = (t - count) / scan_each, first = (t - count) % scan_each * grain;
                for (int h = first; h < first + grain && h < p.heads; h++) scan_task(w, l, layer, s, h, scratch);
            }
#pragma omp for schedule(static)
            for (int m = 0; m < M; m++) leave_row(w, m, scratch);
#pragma omp for schedule(dynamic, 1)
            for (int n = 0; n < blocks(l.leave); n++) product(w.leave_act, M, l.leave, n, Put{b.h, p.width, p.width, n, true});
#pragma omp for schedule(static)
            for (int m = 0; m < M; m++) enter_rows(w, b.h, w.unit_act, scratch, m);
#pragma omp for schedule(dynamic, 1)
            for (int n = 0; n < blocks(l.gate_up); n++) product(w.unit_act, M, l.gate_up, n, Glu{w, n});
            if (p.format >= INT8) {
#pragma omp for schedule(static)
                for (int m = 0; m < M; m++) w.mlp_act.put(m, w.hidden_mlp + (int64_t)m * p.mlp);
            }
#pragma omp for schedule(dynamic, 1)
            for (int n = 0; n < blocks(l.down); n++) product(w.mlp_act, M, l.down, n, Put{b.h, p.width, p.width, n, true});
        }
#pragma omp for schedule(static)
        for (int m = 0; m < M; m++) unit(b.h + (int64_t)m * p.width, b.final_norm, p.width, p.eps, b.h + (int64_t)m * p.width);
    }
    std::free(tasks);
    return 0;
}

// logits [M][n] = multiplier * hidden [M][k] head^T.
int h1r_head(const Mat* head, const float* hidden, int M, float multiplier, float* logits, int threads) {
    int64_t pitch = Act::row_bytes(head->format, head->k);
    uint8_t* data = (uint8_t*)std::aligned_alloc(64, M * pitch);
    if (!data) return 1;
    Act act{data, pitch, head->format, head->k};
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int m = 0; m < M; m++) act.put(m, hidden + (int64_t)m * head->k);
#pragma omp for schedule(dynamic, 4)
        for (int n = 0; n < blocks(*head); n++) {
            Put put{logits, head->n, head->n, n, false};
            product(act, M, *head, n, [&](int m, int rows, const float* t) {
                alignas(64) float scaled[ROWS * N64];
                for (int i = 0; i < rows * N64; i++) scaled[i] = t[i] * multiplier;
                put(m, rows, scaled);
            });
        }
    }
    std::free(data);
    return 0;
}

int64_t h1r_packed_bytes(int n, int k, int format) { return (int64_t)(n + N64 - 1) / N64 * block_bytes(k, format); }

void h1r_pack(const float* src, int64_t pitch, int n, int k, int format, uint8_t* dst, int threads) {
    int64_t bytes = block_bytes(k, format);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int i = 0; i < (n + N64 - 1) / N64; i++) pack_block(src, pitch, n, k, format, i, dst + i * bytes);
}

void h1r_unpack_rows(const Mat* mat, const int64_t* rows, int count, float* out) {
    for (int i = 0; i < count; i++) unpack_row(*mat, (int)rows[i], out + (int64_t)i * mat->k);
}

// Bytes of Shape, Layer, Cache, Batch, Mat, and the width of a vector.
void h1r_sizes(int32_t* out) {
    int32_t sizes[] = {sizeof(Shape), sizeof(Layer), sizeof(Cache), sizeof(Batch), sizeof(Mat), W};
    memcpy(out, sizes, sizeof(sizes));
}

// Best of `rounds` readings of `bytes` of memory, in bytes a second.
double h1r_read_bandwidth(const uint8_t* data, int64_t bytes, int rounds, int threads) {
    double best = 0;
    for (int r = 0; r < rounds; r++) {
        double begun = omp_get_wtime();
        float total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
        {
            int64_t each = bytes / omp_get_num_threads() / 1024 * 1024, first = each * omp_get_thread_num();
            vf s[4] = {};
            for (const uint8_t* p = data + first; p < data + first + each; p += 16 * W) {
                if (((uintptr_t)p & 63) == 0) fetch(p + AHEAD), fetch(p + AHEAD + 64), fetch(p + AHEAD + 128), fetch(p + AHEAD + 192);
                for (int j = 0; j < 4; j++) s[j] += load((const float*)p + j * W);
            }
            total += sum(s[0] + s[1] + s[2] + s[3]);
        }
        volatile float keep = total;
        (void)keep;
        double rate = bytes / (omp_get_wtime() - begun);
        best = rate > best ? rate : best;
    }
    return best;
}
}
