// softmax of rows and its gradient.
//
// Memory-bound: x is read once and y written once (8 bytes an element in f32); the exponentials are
// computed twice, for the sum and for the result, which is cheaper than keeping or storing them. Rows of
// up to 256 (windows of SwinIR: 64) are kept by a warp, rows of up to 4096 by a block of 256; rows of up
// to 16 (experts: 3) take a thread each; `any` reads the row once a pass.
#include "include/rows.cuh"
#include "../ffi/softmax.h"

namespace {

constexpr int THREADS = 128;
constexpr int BLOCK = 256;

template <class Form, class T>
DC_FN void softmax_fwd(const SoftmaxFwd& p) {
    using Team = typename Form::Team;
    using Row = typename Form::template Row<T>;
    constexpr int W = Row::WIDTH;
    const Team team;
    const int64_t row = Team::row();
    if (row >= p.rows) return;  // whole teams: nobody waits for them
    const Row x(dc::ptr<const T>(p.x) + row * p.x_step, p.cols, Team::rank());
    float most = -INFINITY;
    x.each([&](int, const auto& v) {
        DC_UNROLL
        for (int k = 0; k < W; ++k) most = dc::max(most, v[k]);
    });
    most = team.most(most);
    float sum = 0;
    x.each([&](int, const auto& v) {
        DC_UNROLL
        for (int k = 0; k < W; ++k) sum += dc::exp(v[k] - most);
    });
    const float scale = 1 / team.sum(sum);
    T* y = dc::ptr<T>(p.y) + row * p.cols;
    x.each([&](int at, const auto& v) {
        dc::Vec<T, W> out;
        DC_UNROLL
        for (int k = 0; k < W; ++k) out[k] = dc::from_f32<T>(dc::exp(v[k] - most) * scale);
        dc::store(y + at, out);
    });
}

template <class Form>
DC_FN void softmax_grad(const SoftmaxGradRows& p) {
    using Team = typename Form::Team;
    using Row = typename Form::template Row<float>;
    constexpr int W = Row::WIDTH;
    const Team team;
    const int64_t row = Team::row();
    if (row >= p.rows) return;
    const Row y(dc::ptr<const float>(p.y) + row * p.y_step, p.cols, Team::rank());
    const Row dy(dc::ptr<const float>(p.dy) + row * p.dy_step, p.cols, Team::rank());
    float dot = 0;
    y.each_with(dy, [&](int, const auto& y, const auto& dy) {
        DC_UNROLL
        for (int k = 0; k < W; ++k) dot += y[k] * dy[k];
    });
    dot = team.sum(dot);
    float* dx = dc::ptr<float>(p.dx) + row * p.cols;
    y.each_with(dy, [&](int at, const auto& y, const auto& dy) {
        dc::Vec<float, W> out;
        DC_UNROLL
        for (int k = 0; k < W; ++k) out[k] = y[k] * (dy[k] - dot);
        dc::store(dx + at, out);
    });
}

}  // namespace

#define FORWARD(NAME, T)                                                                                          \
    DC_KERNEL(softmax_fwd_w256_##NAME, SoftmaxFwd, THREADS, 8, 0) { softmax_fwd<dc::InWarp<2>, T>(p); }           \
    DC_KERNEL(softmax_fwd_b4096_##NAME, SoftmaxFwd, BLOCK, 4, BLOCK / 8) {                                        \
        softmax_fwd<dc::InBlock<BLOCK, 4>, T>(p);                                                                 \
    }                                                                                                             \
    DC_KERNEL(softmax_fwd_short_##NAME, SoftmaxFwd, THREADS, 8, 0) { softmax_fwd<dc::ShortRow, T>(p); }           \
    DC_KERNEL(softmax_fwd_any_##NAME, SoftmaxFwd, THREADS, 8, 0) { softmax_fwd<dc::AnyRow, T>(p); }
FORWARD(f32, float)
FORWARD(bf16, dc::bf16)
FORWARD(f16, dc::f16)
#undef FORWARD

DC_KERNEL(softmax_grad_w256_f32, SoftmaxGradRows, THREADS, 8, 0) { softmax_grad<dc::InWarp<2>>(p); }
DC_KERNEL(softmax_grad_any_f32, SoftmaxGradRows, THREADS, 8, 0) { softmax_grad<dc::AnyRow>(p); }
