// What Python hands over: shapes, weights, a cache and a batch. Mirrored by library.py, which compares the sizes.
#pragma once
#include "product.h"

struct Shape {
    int32_t layers, width, inner, heads, channels, state, bc_groups, taps, mlp;  // inner = heads * channels; 0: no SSM
    int32_t query_heads, kv_heads, head_dim, format, gated_norm, norm_before_gate, qk_norm, page, kv_bf16, state_bf16;
    float eps, dt_low, dt_high;
    int32_t conv() const { return inner ? inner + 2 * bc_groups * state : 0; }
    int32_t query() const { return query_heads * head_dim; }
    int32_t kv() const { return kv_heads * head_dim; }
    int32_t enter() const { return (inner ? inner + conv() + heads : 0) + query() + 2 * kv(); }
    int32_t lanes() const { return up(channels, 16); }       // of a row of the scan's state
    int32_t value_dim() const { return up(head_dim, 16); }   // of a cached value
    int32_t share() const { return query_heads / kv_heads; }
};

struct Layer {
    Mat enter, leave, gate_up, down;  // z xBC dt q k v;  [mamba's output, attention's];  32 gates, 32 ups in turn
    const float *taps, *conv_bias;    // [K][C], [C] or null
    const float *dt_bias, *a, *skip;  // [H]; a = -exp(A_log)
    const float *q_norm, *k_norm;     // [d] or null
};

// k: [L][pages][Kv][page/64][d/2][64][2] in bf16, [page/64][d][64] in fp32; v: [L][pages][Kv][page/2][dv][2], [page][dv].
// conv [L][slots][K-1][C] fp32, oldest first; ssm [L][slots][H][N][lanes], fp32 or bf16.
struct Cache {
    uint8_t *k, *v, *conv, *ssm;
    int64_t k_layer, v_layer, conv_layer, ssm_layer;  // bytes between layers
    int64_t k_page, v_page, conv_slot, ssm_slot;      // bytes between pages, slots
};

// S sequences; sequence s has the rows starts[s] .. starts[s+1] and before[s] tokens cached; rows continue it.
struct Batch {
    int32_t sequences, rows, table_width, threads;
    const int32_t *starts, *before, *slots, *table;  // table [S][table_width]: pages
    const float *cosine, *sine;                      // [rows][d/2]
    float* h;                                        // [rows][D]: embeddings in, hidden after the final norm out
    const float* final_norm;                         // [D]
};
