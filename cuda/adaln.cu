// adaln: layer norm without weights, scaled and shifted by vectors of the sample.
//
// Memory-bound: x is read once and y written once, 6 bytes an element for f32 in, bf16 out; the vectors of
// a sample stay in the caches. A warp owns a row of up to 1280 columns (PixArt: 1152, 9 loads of 16 bytes
// under way in each lane) and keeps it in registers between the passes (mean, squared distances from it,
// result), so nothing is read twice and no barrier is needed. Rows that do not fit or are not whole vectors
// take `any`, which reads the row once a pass.
#include "include/rows.cuh"
#include "../ffi/adaln.h"

namespace {

constexpr int THREADS = 128;

template <class Form, class In, class Out>
DC_FN void adaln_fwd(const AdalnFwd& p) {
    using Team = typename Form::Team;
    using Row = typename Form::template Row<In>;
    const Team team;
    const int64_t row = Team::row();
    if (row >= p.rows) return;  // whole teams: nobody waits for them
    const Row x(dc::ptr<const In>(p.x) + row * p.x_step, p.cols, Team::rank());
    const dc::Moments m = dc::moments(team, x, p.eps);
    const int sample = int(row) / p.tokens;
    const float* shift = dc::ptr<const float>(p.shift) + sample * p.shift_step;
    const float* scale = dc::ptr<const float>(p.scale) + sample * p.scale_step;
    Out* y = dc::ptr<Out>(p.y) + row * p.cols;
    x.each([&](int at, const auto& v) {
        constexpr int W = Row::WIDTH;
        const auto a = dc::load<W>(scale + at), b = dc::load<W>(shift + at);
        dc::Vec<Out, W> out;
        DC_UNROLL
        for (int k = 0; k < W; ++k) out[k] = dc::from_f32<Out>((v[k] - m.mean) * m.rstd * (1 + a[k]) + b[k]);
        dc::store(y + at, out);
    });
}

}  // namespace

#define INSTANCE(IN, OUT, In, Out)                                                                                \
    DC_KERNEL(adaln_fwd_w1280_##IN##_##OUT, AdalnFwd, THREADS, 5, 0) { adaln_fwd<dc::InWarp<10>, In, Out>(p); }   \
    DC_KERNEL(adaln_fwd_any_##IN##_##OUT, AdalnFwd, THREADS, 8, 0) { adaln_fwd<dc::AnyRow, In, Out>(p); }
INSTANCE(f32, f32, float, float)
INSTANCE(f32, bf16, float, dc::bf16)
INSTANCE(f32, f16, float, dc::f16)
INSTANCE(bf16, bf16, dc::bf16, dc::bf16)
INSTANCE(f16, f16, dc::f16, dc::f16)
#undef INSTANCE
