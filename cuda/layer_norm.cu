// layer_norm and its gradient.
//
// Memory-bound. Forward: x is read once and y written once (6 bytes an element for f32 in, bf16 out).
// Gradient: x and dy read, dx written (12 bytes an element); where there are weights, a second launch reads
// x and dy again for the sums over rows, and a third adds the slabs: training only, and only SwinIR has
// such norms. A warp owns a row and keeps it in registers between the passes (mean, squared distances,
// result), so no barrier is needed: up to 256 columns (SwinIR: 180) or 1280 (PixArt: 1152, SDXL: 1280);
// other rows take `any`, which reads them once a pass.
#include "include/rows.cuh"
#include "../ffi/layer_norm.h"

namespace {

constexpr int THREADS = 128;

template <class Form, class In, class Out>
DC_FN void layer_norm_fwd(const LayerNormFwd& p) {
    using Team = typename Form::Team;
    using Row = typename Form::template Row<In>;
    const Team team;
    const int64_t row = Team::row();
    if (row >= p.rows) return;  // whole teams: nobody waits for them
    const Row x(dc::ptr<const In>(p.x) + row * p.x_step, p.cols, Team::rank());
    const dc::Moments m = dc::moments(team, x, p.eps);
    const float* gamma = dc::ptr<const float>(p.gamma);
    const float* beta = dc::ptr<const float>(p.beta);
    Out* y = dc::ptr<Out>(p.y) + row * p.cols;
    x.each([&](int at, const auto& v) {
        constexpr int W = Row::WIDTH;
        dc::Vec<float, W> g, b;
        if (gamma) g = dc::load<W>(gamma + at), b = dc::load<W>(beta + at);
        dc::Vec<Out, W> out;
        DC_UNROLL
        for (int k = 0; k < W; ++k) {
            const float n = (v[k] - m.mean) * m.rstd;
            out[k] = dc::from_f32<Out>(gamma ? n * g[k] + b[k] : n);
        }
        dc::store(y + at, out);
    });
}

template <class Form>
DC_FN void layer_norm_grad_rows(const LayerNormGradRows& p) {
    using Team = typename Form::Team;
    using Row = typename Form::template Row<float>;
    constexpr int W = Row::WIDTH;
    const Team team;
    const int64_t row = Team::row();
    if (row >= p.rows) return;
    const Row x(dc::ptr<const float>(p.x) + row * p.x_step, p.cols, Team::rank());
    const Row dy(dc::ptr<const float>(p.dy) + row * p.dy_step, p.cols, Team::rank());
    const float* gamma = dc::ptr<const float>(p.gamma);
    const dc::Moments m = dc::moments(team, x, p.eps);
    auto weighted = [&](int at, const dc::Vec<float, W>& dy) {
        dc::Vec<float, W> d = dy;
        if (!gamma) return d;
        const auto g = dc::load<W>(gamma + at);
        DC_UNROLL
        for (int k = 0; k < W; ++k) d[k] *= g[k];
        return d;
    };
    float sum_d = 0, sum_dn = 0;
    x.each_with(dy, [&](int at, const auto& x, const auto& dy) {
        const auto d = weighted(at, dy);
        DC_UNROLL
        for (int k = 0; k < W; ++k) {
            sum_d += d[k];
            sum_dn += d[k] * ((x[k] - m.mean) * m.rstd);
        }
    });
    const float mean_d = team.sum(sum_d) / p.cols, mean_dn = team.sum(sum_dn) / p.cols;
    float* dx = dc::ptr<float>(p.dx) + row * p.cols;
    x.each_with(dy, [&](int at, const auto& x, const auto& dy) {
        const auto d = weighted(at, dy);
        dc::Vec<float, W> out;
        DC_UNROLL
        for (int k = 0; k < W; ++k) out[k] = (d[k] - mean_d - (x[k] - m.mean) * m.rstd * mean_dn) * m.rstd;
        dc::store(dx + at, out);
    });
    if (p.moments && Team::rank() == 0) dc::ptr<dc::Moments>(p.moments)[row] = m;
}

}  // namespace

#define FORWARD(IN, OUT, In, Out)                                                                                 \
    DC_KERNEL(layer_norm_fwd_w256_##IN##_##OUT, LayerNormFwd, THREADS, 8, 0) {                                    \
        layer_norm_fwd<dc::InWarp<2>, In, Out>(p);                                                                \
    }                                                                                                             \
    DC_KERNEL(layer_norm_fwd_w1280_##IN##_##OUT, LayerNormFwd, THREADS, 5, 0) {                                   \
        layer_norm_fwd<dc::InWarp<10>, In, Out>(p);                                                               \
    }                                                                                                             \
    DC_KERNEL(layer_norm_fwd_any_##IN##_##OUT, LayerNormFwd, THREADS, 8, 0) {                                     \
        layer_norm_fwd<dc::AnyRow, In, Out>(p);                                                                   \
    }
FORWARD(f32, f32, float, float)
FORWARD(f32, bf16, float, dc::bf16)
FORWARD(f32, f16, float, dc::f16)
FORWARD(bf16, bf16, dc::bf16, dc::bf16)
FORWARD(f16, f16, dc::f16, dc::f16)
#undef FORWARD

DC_KERNEL(layer_norm_grad_rows_w256_f32, LayerNormGradRows, THREADS, 8, 0) {
    layer_norm_grad_rows<dc::InWarp<2>>(p);
}
DC_KERNEL(layer_norm_grad_rows_w1280_f32, LayerNormGradRows, THREADS, 3, 0) {
    layer_norm_grad_rows<dc::InWarp<10>>(p);
}
DC_KERNEL(layer_norm_grad_rows_any_f32, LayerNormGradRows, THREADS, 8, 0) { layer_norm_grad_rows<dc::AnyRow>(p); }
DC_KERNEL(layer_norm_grad_columns_f32, NormColumnSums, dc::COLUMN_WARPS * 32, 4, dc::COLUMN_SUMS_SHARED) {
    dc::norm_column_sums(p);
}
DC_KERNEL(layer_norm_grad_finish_f32, NormColumnFinish, 128, 1, 0) { dc::norm_column_finish(p); }
