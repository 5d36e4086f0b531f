// The functions of the op `activation` and their slopes, for its own kernels and for the epilogues of
// others. Two forms: `activate<KIND>(a, b, x)` where the kind is known at compile time, and
// `activate(kind, a, b, x)`, a uniform branch per call, where it comes with the parameters.
//
// Arithmetic is f32. Results are good to a few ulp of the larger of |f(x)| and the operand's rounding:
// what f32 wants. Nothing here needs local memory, so that the runtime form may sit in a GEMM epilogue.
#pragma once

#include "../../ffi/activation.h"
#include "dc.cuh"

namespace dc {

/// a / b to 2 ulp, for |b| below 2^126; 0 beyond.
DC_FN float quick_div(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fdividef(a, b);
#else
    return a / b;
#endif
}

/// 1/(1+e⁻ˣ)
DC_FN float sigmoid(float x) { return quick_div(1.0f, 1.0f + exp(-x)); }

/// √(2/π)·2 and the cubic coefficient of the tanh form of GELU: it is x·σ(2u), u = √(2/π)·(x + 0.044715x³).
constexpr float GELU_TWICE = 1.5957691216057308f, GELU_CUBIC = 0.044715f;

/// sin(x + quarters·π/2). The phase is reduced in f64 with π/2 to 106 bits: exact for |x| < 2^50. Beyond,
/// where neighbouring floats lie millions of periods apart, x counts as 0; infinity gives NaN.
DC_FN float sine(float x, int quarters) {
    const double turns = ::rint(double(x) * 0.63661977236758134);
    double r = ::fma(-turns, 1.5707963267948966, double(x));
    r = ::fma(-turns, 6.123233995736766e-17, r);
    const bool sane = ::fabsf(x) < 0x1p50f;
    const float y = sane ? float(r) : x - x, z = y * y;
    const int quadrant = (sane ? int(int64_t(turns) & 3) : 0) + quarters;
    // Minimax polynomials on [-π/4, π/4] (Cephes).
    const float odd = y + y * z * ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f);
    const float even = 1.0f - 0.5f * z
                       + z * z * ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f);
    const float value = quadrant & 1 ? even : odd;
    return quadrant & 2 ? -value : value;
}

/// f(x)
template <int KIND>
DC_FN float activate([[maybe_unused]] float a, [[maybe_unused]] float b, float x) {
    if constexpr (KIND == ACTIVATION_RELU) return x < 0 ? 0.0f : x;
    if constexpr (KIND == ACTIVATION_LEAKY_RELU) return x < 0 ? a * x : x;
    if constexpr (KIND == ACTIVATION_GELU) return 0.5f * x * (1 + ::erff(x * 0.70710678f));
    if constexpr (KIND == ACTIVATION_GELU_TANH) return x * sigmoid(GELU_TWICE * (x + GELU_CUBIC * x * x * x));
    if constexpr (KIND == ACTIVATION_SILU) return x * sigmoid(x);
    if constexpr (KIND == ACTIVATION_SIGMOID) return sigmoid(x);
    if constexpr (KIND == ACTIVATION_TANH) return ::tanhf(x);
    if constexpr (KIND == ACTIVATION_EXP) return ::expf(x);
    if constexpr (KIND == ACTIVATION_LN) return ::logf(x);
    if constexpr (KIND == ACTIVATION_SQRT) return ::sqrtf(x);
    if constexpr (KIND == ACTIVATION_SIN) return sine(x, 0);
    if constexpr (KIND == ACTIVATION_COS) return sine(x, 1);
    if constexpr (KIND == ACTIVATION_ABS) return ::fabsf(x);
    if constexpr (KIND == ACTIVATION_CLAMP) return x < a ? a : x > b ? b : x;
    return x;
}

/// f′(x)
template <int KIND>
DC_FN float activate_slope([[maybe_unused]] float a, [[maybe_unused]] float b, float x) {
    if constexpr (KIND == ACTIVATION_RELU) return x > 0 ? 1.0f : 0.0f;
    if constexpr (KIND == ACTIVATION_LEAKY_RELU) return x > 0 ? 1.0f : a;  // at 0 too, as in PyTorch
    if constexpr (KIND == ACTIVATION_GELU)  // Φ(x) + x·φ(x)
        return 0.5f * (1 + ::erff(x * 0.70710678f)) + x * 0.3989422804f * exp(-0.5f * x * x);
    if constexpr (KIND == ACTIVATION_GELU_TANH) {
        // With s = σ(2u): s + x·s·(1 − s)·2u′. Beyond 15 the slope is 0 or 1 and the cube might overflow.
        const float y = x < -15 ? -15.0f : x > 15 ? 15.0f : x;
        const float s = sigmoid(GELU_TWICE * (y + GELU_CUBIC * y * y * y));
        return s + y * s * (1 - s) * GELU_TWICE * (1 + 3 * GELU_CUBIC * y * y);
    }
    if constexpr (KIND == ACTIVATION_SILU) {
        // Far out x·(1 − s) would be ∞·0; the slope is flat there.
        const float s = sigmoid(x), y = x < -120 ? -120.0f : x > 120 ? 120.0f : x;
        return s * (1 + y * (1 - s));
    }
    if constexpr (KIND == ACTIVATION_SIGMOID) {
        const float s = sigmoid(x);
        return s * (1 - s);
    }
    if constexpr (KIND == ACTIVATION_TANH) {
        const float t = ::tanhf(x);
        return 1 - t * t;
    }
    if constexpr (KIND == ACTIVATION_EXP) return ::expf(x);
    if constexpr (KIND == ACTIVATION_LN) return 1 / x;
    if constexpr (KIND == ACTIVATION_SQRT) return 0.5f / ::sqrtf(x);
    if constexpr (KIND == ACTIVATION_SIN) return sine(x, 1);
    if constexpr (KIND == ACTIVATION_COS) return sine(x, 2);
    if constexpr (KIND == ACTIVATION_ABS) return x < 0 ? -1.0f : x > 0 ? 1.0f : 0.0f;
    if constexpr (KIND == ACTIVATION_CLAMP) return x < a || x > b ? 0.0f : 1.0f;
    return 1.0f;
}

/// `do(X)` with X the compile-time form of `kind`.
#define DC_ACTIVATION_SWITCH(kind, do)                                    \
    switch (kind) {                                                       \
        case ACTIVATION_RELU: do(ACTIVATION_RELU); break;                 \
        case ACTIVATION_LEAKY_RELU: do(ACTIVATION_LEAKY_RELU); break;     \
        case ACTIVATION_GELU: do(ACTIVATION_GELU); break;                 \
        case ACTIVATION_GELU_TANH: do(ACTIVATION_GELU_TANH); break;       \
        case ACTIVATION_SILU: do(ACTIVATION_SILU); break;                 \
        case ACTIVATION_SIGMOID: do(ACTIVATION_SIGMOID); break;           \
        case ACTIVATION_TANH: do(ACTIVATION_TANH); break;                 \
        case ACTIVATION_EXP: do(ACTIVATION_EXP); break;                   \
        case ACTIVATION_LN: do(ACTIVATION_LN); break;                     \
        case ACTIVATION_SQRT: do(ACTIVATION_SQRT); break;                 \
        case ACTIVATION_SIN: do(ACTIVATION_SIN); break;                   \
        case ACTIVATION_COS: do(ACTIVATION_COS); break;                   \
        case ACTIVATION_ABS: do(ACTIVATION_ABS); break;                   \
        case ACTIVATION_CLAMP: do(ACTIVATION_CLAMP); break;               \
        default: do(ACTIVATION_NONE);                                     \
    }

/// f(x) for a kind that is known only at run time.
DC_FN float activate(int kind, float a, float b, float x) {
#define DC_ACTIVATE(KIND) return activate<KIND>(a, b, x)
    DC_ACTIVATION_SWITCH(kind, DC_ACTIVATE)
#undef DC_ACTIVATE
}
/// f′(x) for a kind that is known only at run time.
DC_FN float activate_slope(int kind, float a, float b, float x) {
#define DC_ACTIVATE(KIND) return activate_slope<KIND>(a, b, x)
    DC_ACTIVATION_SWITCH(kind, DC_ACTIVATE)
#undef DC_ACTIVATE
}

}  // namespace dc
