// rms_norm and its gradient.
//
// Memory-bound: x is read once and y written once (6 bytes an element for f32 in, bf16 out). T5's rows
// have 4096 columns, 16 KiB: too long for one warp's registers, so a block of 256 shares a row (16
// numbers a thread) and pays one barrier pair for its one sum; other rows take `any`, a warp each. The
// gradient runs in training experiments only and has the `any` form alone: x and dy are read once a
// pass, then once more for the weight's sums over rows.
#include "include/rows.cuh"
#include "../ffi/rms_norm.h"

namespace {

constexpr int THREADS = 128;
constexpr int BLOCK = 256;

template <class Form, class In, class Out>
DC_FN void rms_norm_fwd(const RmsNormFwd& p) {
    using Team = typename Form::Team;
    using Row = typename Form::template Row<In>;
    const Team team;
    const int64_t row = Team::row();
    if (row >= p.rows) return;  // whole teams: nobody waits for them
    const Row x(dc::ptr<const In>(p.x) + row * p.x_step, p.cols, Team::rank());
    const float r = dc::reciprocal_rms(team, x, p.eps);
    const float* weight = dc::ptr<const float>(p.weight);
    Out* y = dc::ptr<Out>(p.y) + row * p.cols;
    x.each([&](int at, const auto& v) {
        constexpr int W = Row::WIDTH;
        dc::Vec<float, W> w;
        if (weight) w = dc::load<W>(weight + at);
        dc::Vec<Out, W> out;
        DC_UNROLL
        for (int k = 0; k < W; ++k) out[k] = dc::from_f32<Out>(weight ? v[k] * r * w[k] : v[k] * r);
        dc::store(y + at, out);
    });
}

DC_FN void rms_norm_grad_rows(const RmsNormGradRows& p) {
    using Team = dc::LoneWarp;
    using Row = dc::ReadRow<Team, float>;
    const Team team;
    const int64_t row = Team::row();
    if (row >= p.rows) return;
    const Row x(dc::ptr<const float>(p.x) + row * p.x_step, p.cols, Team::rank());
    const Row dy(dc::ptr<const float>(p.dy) + row * p.dy_step, p.cols, Team::rank());
    const float* weight = dc::ptr<const float>(p.weight);
    const float r = dc::reciprocal_rms(team, x, p.eps);
    float sum_dn = 0;
    x.each_with(dy, [&](int at, const auto& x, const auto& dy) {
        sum_dn += (weight ? dy[0] * weight[at] : dy[0]) * (x[0] * r);
    });
    const float mean_dn = team.sum(sum_dn) / p.cols;
    float* dx = dc::ptr<float>(p.dx) + row * p.cols;
    x.each_with(dy, [&](int at, const auto& x, const auto& dy) {
        dx[at] = ((weight ? dy[0] * weight[at] : dy[0]) - x[0] * r * mean_dn) * r;
    });
    if (p.moments && Team::rank() == 0) dc::ptr<dc::Moments>(p.moments)[row] = {0, r};
}

}  // namespace

#define FORWARD(IN, OUT, In, Out)                                                                                 \
    DC_KERNEL(rms_norm_fwd_b4096_##IN##_##OUT, RmsNormFwd, BLOCK, 4, BLOCK / 8) {                                 \
        rms_norm_fwd<dc::InBlock<BLOCK, 4>, In, Out>(p);                                                          \
    }                                                                                                             \
    DC_KERNEL(rms_norm_fwd_any_##IN##_##OUT, RmsNormFwd, THREADS, 8, 0) { rms_norm_fwd<dc::AnyRow, In, Out>(p); }
FORWARD(f32, f32, float, float)
FORWARD(f32, bf16, float, dc::bf16)
FORWARD(f32, f16, float, dc::f16)
FORWARD(bf16, bf16, dc::bf16, dc::bf16)
FORWARD(f16, f16, dc::f16, dc::f16)
#undef FORWARD

DC_KERNEL(rms_norm_grad_rows_any_f32, RmsNormGradRows, THREADS, 8, 0) { rms_norm_grad_rows(p); }
DC_KERNEL(rms_norm_grad_columns_f32, NormColumnSums, dc::COLUMN_WARPS * 32, 4, dc::COLUMN_SUMS_SHARED) {
    dc::norm_column_sums(p);
}
DC_KERNEL(rms_norm_grad_finish_f32, NormColumnFinish, 128, 1, 0) { dc::norm_column_finish(p); }
