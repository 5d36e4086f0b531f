// modulate: y = x·(1 + γ) + β. moe_modulate: the same with a mixture of K pairs (γ, β), weighted by a
// softmax over K logits of the row; and its gradient.
//
// Memory-bound: every operand is read once and the result written once. With K = 3 experts in half
// precision that is 8 + 12 = 20 bytes an element (f32: 32), for 15 operations. The mixture exists in
// registers only. A warp walks along a row: each lane computes the row's K weights for itself (K broadcast
// loads), so no barrier and no division is needed. DreamClear's K = 3 on whole vectors takes `k3`; other
// numbers of experts (up to 8) and rows that are not whole vectors take `any`. The gradient reads x, dy and
// the pairs once and writes dx and 2K gradients, 4·(4K + 3) bytes an element; sums over the row for the
// logits cross the warp by shuffles.
#include "include/rows.cuh"
#include "../ffi/moe_modulate.h"

namespace {

constexpr int THREADS = 128;
constexpr int MOST = 8;  // experts

/// W numbers at a time; y may be x.
template <class E, int W>
DC_FN void modulate(const ModulateFwd& p) {
    const int64_t row = dc::LoneWarp::row();
    if (row >= p.rows) return;
    const float* x = dc::ptr<const float>(p.x) + row * p.x_step;
    const E* gamma = dc::ptr<const E>(p.gamma) + row * p.gamma_step;
    const E* beta = dc::ptr<const E>(p.beta) + row * p.beta_step;
    float* y = dc::ptr<float>(p.y) + row * p.cols;
    constexpr int UNROLL = 3;
    for (int first = dc::lane() * W; first < p.cols; first += UNROLL * 32 * W) {
        dc::Vec<float, W> a[UNROLL];
        dc::Vec<E, W> g[UNROLL], b[UNROLL];
        DC_UNROLL
        for (int u = 0; u < UNROLL; ++u) {
            const int at = first + u * 32 * W;
            if (at >= p.cols) break;
            a[u] = dc::load<W>(x + at);
            g[u] = dc::load<W>(gamma + at);
            b[u] = dc::load<W>(beta + at);
        }
        DC_UNROLL
        for (int u = 0; u < UNROLL; ++u) {
            const int at = first + u * 32 * W;
            if (at >= p.cols) break;
            DC_UNROLL
            for (int k = 0; k < W; ++k) a[u][k] = a[u][k] * (1 + dc::to_f32(g[u][k])) + dc::to_f32(b[u][k]);
            dc::store(y + at, a[u]);
        }
    }
}

/// One row of the mixture: weights and where its operands are. K: the number of experts, or MOST where
/// it is known at run time only.
template <class E, int K>
struct Mixture {
    float weight[K];
    const E* gamma[K];
    const E* beta[K];
    int experts;

    DC_FN Mixture(const MoeOperands& p, int64_t row) : experts(K == MOST ? p.experts : K) {
        const E* logits = dc::ptr<const E>(p.logits) + row * p.logits_step;
        float most = -INFINITY, sum = 0;
        DC_UNROLL
        for (int e = 0; e < K; ++e) {
            if (e >= experts) break;
            weight[e] = dc::to_f32(logits[e]);
            most = dc::max(most, weight[e]);
            gamma[e] = dc::ptr<const E>(p.gamma[e]) + row * p.gamma_step[e];
            beta[e] = dc::ptr<const E>(p.beta[e]) + row * p.beta_step[e];
        }
        DC_UNROLL
        for (int e = 0; e < K; ++e) {
            if (e >= experts) break;
            weight[e] = dc::exp(weight[e] - most);
            sum += weight[e];
        }
        const float scale = 1 / sum;
        DC_UNROLL
        for (int e = 0; e < K; ++e) {
            if (e >= experts) break;
            weight[e] *= scale;
        }
    }
};

/// W numbers at a time; y may be x.
template <class E, int K, int W>
DC_FN void moe_modulate_fwd(const MoeModulateFwd& p) {
    const int64_t row = dc::LoneWarp::row();
    if (row >= p.of.rows) return;
    const Mixture<E, K> m(p.of, row);
    const float* x = dc::ptr<const float>(p.of.x) + row * p.of.x_step;
    float* y = dc::ptr<float>(p.y) + row * p.of.cols;
    for (int at = dc::lane() * W; at < p.of.cols; at += 32 * W) {
        const auto v = dc::load<W>(x + at);
        dc::Vec<E, W> g[K], b[K];
        DC_UNROLL
        for (int e = 0; e < K; ++e) {
            if (e >= m.experts) break;
            g[e] = dc::load<W>(m.gamma[e] + at);
            b[e] = dc::load<W>(m.beta[e] + at);
        }
        dc::Vec<float, W> out;
        DC_UNROLL
        for (int k = 0; k < W; ++k) {
            float gamma = 0, beta = 0;
            DC_UNROLL
            for (int e = 0; e < K; ++e) {
                if (e >= m.experts) break;
                gamma += m.weight[e] * dc::to_f32(g[e][k]);
                beta += m.weight[e] * dc::to_f32(b[e][k]);
            }
            out[k] = v[k] * (1 + gamma) + beta;
        }
        dc::store(y + at, out);
    }
}

/// W numbers at a time.
template <int K, int W>
DC_FN void moe_modulate_grad(const MoeModulateBwd& p) {
    const int64_t row = dc::LoneWarp::row();
    if (row >= p.of.rows) return;
    const Mixture<float, K> m(p.of, row);
    const float* x = dc::ptr<const float>(p.of.x) + row * p.of.x_step;
    const float* dy = dc::ptr<const float>(p.dy) + row * p.dy_step;
    const int64_t out = row * p.of.cols;
    float d_weight[K] = {};
    for (int at = dc::lane() * W; at < p.of.cols; at += 32 * W) {
        const auto v = dc::load<W>(x + at), d = dc::load<W>(dy + at);
        dc::Vec<float, W> dx = d;
        DC_UNROLL
        for (int e = 0; e < K; ++e) {
            if (e >= m.experts) break;
            const auto g = dc::load<W>(m.gamma[e] + at), b = dc::load<W>(m.beta[e] + at);
            dc::Vec<float, W> d_gamma, d_beta;
            DC_UNROLL
            for (int k = 0; k < W; ++k) {
                d_beta[k] = m.weight[e] * d[k];
                d_gamma[k] = d_beta[k] * v[k];
                dx[k] += d_beta[k] * g[k];
                d_weight[e] += d[k] * (v[k] * g[k] + b[k]);
            }
            dc::store(dc::ptr<float>(p.d_gamma[e]) + out + at, d_gamma);
            dc::store(dc::ptr<float>(p.d_beta[e]) + out + at, d_beta);
        }
        dc::store(dc::ptr<float>(p.dx) + out + at, dx);
    }
    float mean = 0;
    DC_UNROLL
    for (int e = 0; e < K; ++e) {
        if (e >= m.experts) break;
        d_weight[e] = dc::warp_sum(d_weight[e]);
        mean += m.weight[e] * d_weight[e];
    }
    float* d_logits = dc::ptr<float>(p.d_logits) + row * m.experts;
    DC_UNROLL
    for (int e = 0; e < K; ++e) {
        if (e >= m.experts) break;
        if (dc::lane() == e) d_logits[e] = m.weight[e] * (d_weight[e] - mean);
    }
}

}  // namespace

#define FORWARD(NAME, E)                                                                                          \
    DC_KERNEL(modulate_v4_##NAME##_f32, ModulateFwd, THREADS, 6, 0) { modulate<E, 4>(p); }                        \
    DC_KERNEL(modulate_any_##NAME##_f32, ModulateFwd, THREADS, 8, 0) { modulate<E, 1>(p); }                       \
    DC_KERNEL(moe_modulate_fwd_k3_##NAME##_f32, MoeModulateFwd, THREADS, 6, 0) { moe_modulate_fwd<E, 3, 4>(p); }  \
    DC_KERNEL(moe_modulate_fwd_any_##NAME##_f32, MoeModulateFwd, THREADS, 4, 0) { moe_modulate_fwd<E, MOST, 1>(p); }
FORWARD(f32, float)
FORWARD(bf16, dc::bf16)
FORWARD(f16, dc::f16)
#undef FORWARD

DC_KERNEL(moe_modulate_grad_k3_f32, MoeModulateBwd, THREADS, 4, 0) { moe_modulate_grad<3, 4>(p); }
DC_KERNEL(moe_modulate_grad_any_f32, MoeModulateBwd, THREADS, 4, 0) { moe_modulate_grad<MOST, 1>(p); }
