// diffusion: what a sampler does between two calls of the network: noise, guidance, its own step, the blend of
// latent tiles. Latents are small (65 thousand elements for a megapixel); these kernels exist so that a step
// needs no trip to the host. All equal the host's results bit for bit: operations round one by one.
//
// A recording of a step is replayed for all steps: what differs between them (number, timestep, factors) lies in
// device memory, and `diffusion_begin` moves on to the next.
#include "../ffi/diffusion.h"
#include "include/dc.cuh"
#include "include/exact.cuh"

namespace {

constexpr int THREADS = 256;

DC_FN int64_t index() { return int64_t(blockIdx.x) * THREADS + threadIdx.x; }

// ---- Noise: src/diffusion/noise.rs ------------------------------------------------------------

using Double = dc::Exact<double>;

DC_FN uint64_t bits_of(double x) {
    uint64_t u;
    memcpy(&u, &x, 8);
    return u;
}
DC_FN double of_bits(uint64_t u) {
    double x;
    memcpy(&x, &u, 8);
    return x;
}

/// ln x for normal x, as in FreeBSD's e_log.c (and Rust's crate libm).
DC_FN Double natural_log(double number) {
    const uint64_t bits = bits_of(number);
    uint32_t high = uint32_t(bits >> 32);
    if (high == 0x3ff00000 && uint32_t(bits) == 0) return 0.0;
    high += 0x3ff00000 - 0x3fe6a09e;
    const Double k = double(int(high >> 20) - 0x3ff);
    high = (high & 0x000fffff) + 0x3fe6a09e;
    const Double x = of_bits(uint64_t(high) << 32 | uint32_t(bits));
    const Double f = x - 1.0, half_square = Double(0.5) * f * f, s = f / (Double(2.0) + f), z = s * s, w = z * z;
    const Double t1 = w * (Double(3.999999999940941908e-01)
                           + w * (Double(2.222219843214978396e-01) + w * 1.531383769920937332e-01));
    const Double t2 = z * (Double(6.666666666666735130e-01)
                           + w * (Double(2.857142874366239149e-01)
                                  + w * (Double(1.818357216161805012e-01) + w * 1.479819860511658591e-01)));
    return s * (half_square + (t2 + t1)) + k * 1.90821492927058770002e-10 - half_square + f
           + k * 6.93147180369123816490e-01;
}

/// sin(x + y) for |x| ≤ π/4, y its tail (k_sin.c).
DC_FN Double kernel_sin(Double x, Double y, bool tail) {
    const Double z = x * x, w = z * z, v = z * x;
    const Double r = Double(8.33333333332248946124e-03)
                     + z * (Double(-1.98412698298579493134e-04) + z * 2.75573137070700676789e-06)
                     + z * w * (Double(-2.50507602534068634195e-08) + z * 1.58969099521155010221e-10);
    const Double s1 = -1.66666666666666324348e-01;
    if (!tail) return x + v * (s1 + z * r);
    return x - ((z * (Double(0.5) * y - v * r) - y) - v * s1);
}

/// cos(x + y) for |x| ≤ π/4, y its tail (k_cos.c).
DC_FN Double kernel_cos(Double x, Double y) {
    const Double z = x * x, w = z * z;
    const Double r = z * (Double(4.16666666666666019037e-02)
                          + z * (Double(-1.38888888888741095749e-03) + z * 2.48015872894767294178e-05))
                     + w * w * (Double(-2.75573143513906633035e-07)
                                + z * (Double(2.08757232129817482790e-09) + z * -1.13596475577881948265e-11));
    const Double half = Double(0.5) * z, one = Double(1.0) - half;
    return one + (((Double(1.0) - one) - half) + (z * r - x * y));
}

/// sin x and cos x for x in (0, 2π), no closer than 2^-40 to a multiple of π/2 but for 0 (e_rem_pio2.c).
DC_FN void sine_and_cosine(double number, double& sin, double& cos) {
    const Double x = number;
    const uint32_t high = uint32_t(bits_of(number) >> 32);
    if (high <= 0x3fe921fb) {  // below π/4
        const bool tiny = high < 0x3e46a09e;
        sin = tiny ? number : kernel_sin(x, 0.0, false).v;
        cos = tiny ? 1.0 : kernel_cos(x, 0.0).v;
        return;
    }
    const Double pio2_1 = 1.57079632673412561417e+00, pio2_1t = 6.07710050650619224932e-11;
    // Within 2^-20 of a multiple of π/2 the difference cancels.
    const bool close = (high & 0xfffff) == 0x921fb || high == 0x4012d97c;
    int n;
    Double r = 0.0, w = 0.0;
    if (close) {
        const Double to_int = 1.5 / 2.2204460492503131e-16;
        const Double f = (x * 6.36619772367581382433e-01 + to_int) - to_int;
        n = int(f.v);
        r = x - f * pio2_1;
        w = f * pio2_1t;
        const int exponent = int(bits_of((r - w).v) >> 52 & 0x7ff);
        if (int(high >> 20) - exponent > 16) {
            const Double t = r;
            w = f * 6.07710050630396597660e-11;
            r = t - w;
            w = f * 2.02226624879595063154e-21 - ((t - r) - w);
        }
    } else {
        n = high <= 0x4002d97c ? 1 : high <= 0x400f6a7a ? 2 : high <= 0x4015fdbc ? 3 : 4;  // by odd π/4
        const Double quarters = double(n);
        r = x - quarters * pio2_1;
        w = quarters * pio2_1t;
    }
    const Double y0 = r - w, y1 = (r - y0) - w;
    const double s = kernel_sin(y0, y1, true).v, c = kernel_cos(y0, y1).v;
    sin = n & 1 ? c : s;
    cos = n & 1 ? s : c;
    if (n & 2) sin = -sin;
    if ((n + 1) & 2) cos = -cos;
}

DC_FN double uniform(uint32_t u) { return (Double(double(u) + 0.5) * 0x1p-32).v; }

/// Two normals from 64 random bits (Box and Muller).
DC_FN void box_muller(uint32_t radius_bits, uint32_t angle_bits, float& a, float& b) {
    const Double radius = dc::sqrt_rn((Double(-2.0) * natural_log(uniform(radius_bits))).v);
    double sin, cos;
    sine_and_cosine((Double(6.283185307179586) * uniform(angle_bits)).v, sin, cos);
    a = float((radius * cos).v);
    b = float((radius * sin).v);
}

DC_FN void multiply(uint32_t x, uint32_t factor, uint32_t& high, uint32_t& low) {
    const uint64_t product = uint64_t(x) * factor;
    high = uint32_t(product >> 32);
    low = uint32_t(product);
}

/// Philox 4x32 with ten rounds: a thread makes the four elements of one counter.
DC_FN void noise(const DiffusionNoise& p) {
    const int64_t block = index();
    if (block * 4 >= p.len) return;
    const uint32_t step = p.counter ? *dc::ptr<const uint32_t>(p.counter) : p.step;
    uint32_t c[4] = {uint32_t(block), step, uint32_t(p.image), uint32_t(p.image >> 32)};
    uint32_t key[2] = {uint32_t(p.seed), uint32_t(p.seed >> 32)};
    DC_UNROLL
    for (int round = 0; round < 10; ++round) {
        uint32_t high0, low0, high1, low1;
        multiply(c[0], 0xD2511F53, high0, low0);
        multiply(c[2], 0xCD9E8D57, high1, low1);
        c[0] = high1 ^ c[1] ^ key[0];
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key[1];
        c[3] = low0;
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
    dc::Vec<float, 4> x;
    box_muller(c[0], c[1], x[0], x[1]);
    box_muller(c[2], c[3], x[2], x[3]);
    float* out = dc::ptr<float>(p.out) + block * 4;
    if (block * 4 + 4 <= p.len) {
        dc::store(out, x);
    } else {
        DC_UNROLL
        for (int k = 0; k < 4; ++k)
            if (block * 4 + k < p.len) out[k] = x[k];
    }
}

// ---- Steps ------------------------------------------------------------------------------------

using Float = dc::Exact<float>;

DC_FN void begin(const DiffusionBegin& p) {
    if (threadIdx.x) return;
    const uint32_t step = ++*dc::ptr<uint32_t>(p.counter);
    *dc::ptr<float>(p.timestep) = *dc::ptr<const float>(p.rows + uint64_t(step) * p.row_bytes);
}

DC_FN void guide(const DiffusionGuide& p) {
    const int64_t i = index();
    if (i >= p.guided) return;
    const int64_t at = blockIdx.y * p.sample + i;
    float& cond = dc::ptr<float>(p.cond)[at];
    const Float u = dc::ptr<const float>(p.uncond)[at];
    cond = (u + Float(p.scale) * (Float(cond) - u)).v;
}

DC_FN void sum(const DiffusionSum& p) {
    const int64_t i = index();
    if (i >= p.len) return;
    Float y = Float(p.factors[0]) * dc::ptr<const float>(p.x[0])[i];
    DC_UNROLL
    for (int k = 1; k < 4; ++k)
        if (k < p.count) y = y + Float(p.factors[k]) * dc::ptr<const float>(p.x[k])[i];
    dc::ptr<float>(p.y)[i] = y.v;
}

/// e^x as in FreeBSD's e_exp.c (and Rust's crate libm), good for f32: beyond ±700 it is infinity or 0.
DC_FN double natural_exp(double number) {
    if (!(number > -700 && number < 700)) return number > 0 ? INFINITY : number < 0 ? 0.0 : number;
    const uint32_t size = uint32_t(bits_of(number) >> 32) & 0x7fffffff;
    if (size <= 0x3e300000) return 1.0 + number;  // below 2^-28
    const Double x = number;
    int k = 0;
    Double high = x, low = 0.0, y = x;
    if (size > 0x3fd62e42) {  // above ln 2 / 2
        const bool negative = number < 0;
        if (size >= 0x3ff0a2b2)
            k = int((Double(1.44269504088896338700e+00) * x + (negative ? -0.5 : 0.5)).v);
        else
            k = negative ? -1 : 1;
        high = x - Double(double(k)) * 6.93147180369123816490e-01;
        low = Double(double(k)) * 1.90821492927058770002e-10;
        y = high - low;
    }
    const Double z = y * y;
    const Double tail = Double(6.61375632143793436117e-05)
                        + z * (Double(-1.65339022054652515390e-06) + z * 4.13813679705723846039e-08);
    const Double c = y - z * (Double(1.66666666666666019037e-01)
                              + z * (Double(-2.77777777770155933842e-03) + z * tail));
    const Double power = Double(1.0) + (y * c / (Double(2.0) - c) - low + high);
    return (power * of_bits(uint64_t(1023 + k) << 52)).v;
}

/// One element of a latent and its step: Row says what the step does.
template <class Row>
struct Element {
    const DiffusionStep& p;
    const Row& row;
    const int64_t i;

    DC_FN Float of(uint64_t tensor) const { return dc::ptr<const float>(tensor)[i]; }
    DC_FN void put(uint64_t tensor, Float value) const { dc::ptr<float>(tensor)[i] = value.v; }
    DC_FN Float noise() const {
        return dc::ptr<const float>(p.noise)[int64_t(*dc::ptr<const uint32_t>(p.counter)) * p.noise_step + i];
    }
};

/// src/diffusion/iddpm.rs
DC_FN Float next(const Element<DiffusionIddpmRow>& e) {
    const DiffusionIddpmRow& row = e.row;
    const Float x = e.of(e.p.x), eps = e.of(e.p.eps);
    const Float mean =
        Float(row.mean_clean) * (Float(row.from_x) * x - Float(row.from_eps) * eps) + Float(row.mean_x) * x;
    if (!row.noise) return mean;
    Float log_variance = row.greatest;
    if (e.p.variance) {
        const Float share = (e.of(e.p.variance) + 1.0f) / 2.0f;
        log_variance = share * row.greatest + (Float(1.0f) - share) * row.least;
    }
    const Float sigma = float(natural_exp(double((Float(0.5f) * log_variance).v)));
    return mean + sigma * e.noise();
}

/// src/diffusion/ddim.rs
DC_FN Float next(const Element<DiffusionDdimRow>& e) {
    const DiffusionDdimRow& row = e.row;
    const Float x = e.of(e.p.x), scaled = Float(row.from_x) * x;
    const Float clean = scaled - Float(row.from_eps) * e.of(e.p.eps);
    const Float eps = (scaled - clean) / row.from_eps;
    const Float to = clean * row.signal + Float(row.direction) * eps;
    return row.noise ? to + Float(row.sigma) * e.noise() : to;
}

/// Data prediction of the solvers.
template <class Row>
DC_FN Float predict_clean(const Element<Row>& e) {
    return (e.of(e.p.x) - Float(e.row.noise_level) * e.of(e.p.eps)) / e.row.signal_level;
}

/// src/diffusion/dpm_solver.rs
DC_FN Float next(const Element<DiffusionDpmRow>& e) {
    const DiffusionDpmRow& row = e.row;
    const Float clean = predict_clean(e);
    Float to = Float(row.keep) * e.of(e.p.x) + Float(row.towards) * clean;
    if (row.second) to = to + Float(row.half) * (Float(row.inverse) * (clean - e.of(e.p.clean)));
    if (row.noise) to = to + Float(row.sigma) * e.noise();
    e.put(e.p.clean, clean);
    return to;
}

/// src/diffusion/sa_solver.rs
DC_FN Float next(const Element<DiffusionSaRow>& e) {
    const DiffusionSaRow& row = e.row;
    const Float clean = predict_clean(e);
    Float x = e.of(e.p.x);
    if (row.correct) {
        const Float towards =
            Float(row.corrector_towards[0]) * clean + Float(row.corrector_towards[1]) * e.of(e.p.clean);
        x = Float(row.corrector_keep) * e.of(e.p.corrected) + towards;
        if (row.had_noise) x = x + Float(row.corrector_sigma) * e.of(e.p.kept);
    }
    e.put(e.p.corrected, x);
    Float towards = Float(row.towards[0]) * clean;
    if (row.second) towards = towards + Float(row.towards[1]) * e.of(e.p.clean);
    Float to = Float(row.keep) * x + towards;
    if (row.noise) {
        const Float noise = e.noise();
        e.put(e.p.kept, noise);
        to = to + Float(row.sigma) * noise;
    }
    e.put(e.p.clean, clean);
    return to;
}

template <class Row>
DC_FN void step(const DiffusionStep& p) {
    const int64_t i = index();
    if (i >= p.len) return;
    const uint32_t k = *dc::ptr<const uint32_t>(p.counter);
    const Element<Row> e = {p, dc::ptr<const Row>(p.rows)[k], i};
    const float to = next(e).v;
    e.put(p.x, to);
    // All that write write the same number: later steps find it set.
    uint32_t& fault = *dc::ptr<uint32_t>(p.fault);
    if (!(to - to == 0) && fault == 0) fault = k + 1;
}

// ---- Tiles: src/models/latent_tiles.rs ----------------------------------------------------------

/// A thread a pixel and plane: it adds the tiles that cover the pixel in their order.
DC_FN void blend(const DiffusionBlend& p) {
    const int64_t area = int64_t(p.height) * p.width, i = index();
    if (i >= area) return;
    const int y = int(i / p.width), x = int(i - int64_t(y) * p.width), plane = int(blockIdx.y);
    const int64_t tile = int64_t(p.side) * p.side;
    float sum = 0, total = 0;
    const auto add = [](float& to, Double term) { to = float((Double(double(to)) + term).v); };
    for (int column = 0; column < p.columns; ++column) {
        const int across = x - dc::min(column * p.step, p.width - p.side);
        if (across < 0 || across >= p.side) continue;
        for (int row = 0; row < p.rows; ++row) {
            const int down = y - dc::min(row * p.step, p.height - p.side);
            if (down < 0 || down >= p.side) continue;
            const int64_t at = int64_t(down) * p.side + across, number = int64_t(column) * p.rows + row;
            const Double weight = dc::ptr<const double>(p.weights)[at];
            const Double value = double(dc::ptr<const float>(p.tiles)[(number * p.planes + plane) * tile + at]);
            add(total, weight);
            add(sum, value * weight);
        }
    }
    dc::ptr<float>(p.out)[plane * area + i] = (Float(sum) / total).v;
}

}  // namespace

DC_KERNEL(diffusion_begin, DiffusionBegin, 32, 1, 0) { begin(p); }
DC_KERNEL(diffusion_noise_f32, DiffusionNoise, THREADS, 2, 0) { noise(p); }
DC_KERNEL(diffusion_guide_f32, DiffusionGuide, THREADS, 4, 0) { guide(p); }
DC_KERNEL(diffusion_sum_f32, DiffusionSum, THREADS, 4, 0) { sum(p); }
DC_KERNEL(diffusion_step_iddpm_f32, DiffusionStep, THREADS, 4, 0) { step<DiffusionIddpmRow>(p); }
DC_KERNEL(diffusion_step_ddim_f32, DiffusionStep, THREADS, 4, 0) { step<DiffusionDdimRow>(p); }
DC_KERNEL(diffusion_step_dpm_f32, DiffusionStep, THREADS, 4, 0) { step<DiffusionDpmRow>(p); }
DC_KERNEL(diffusion_step_sa_f32, DiffusionStep, THREADS, 4, 0) { step<DiffusionSaRow>(p); }
DC_KERNEL(diffusion_blend_f32, DiffusionBlend, THREADS, 4, 0) { blend(p); }
