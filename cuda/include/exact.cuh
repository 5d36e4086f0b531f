// Arithmetic that nvcc may not fuse: for what has to equal the host bit for bit (noise, samplers).
#pragma once

#include "dc.cuh"

namespace dc {

#ifdef __CUDA_ARCH__
DC_FN float add_rn(float a, float b) { return __fadd_rn(a, b); }
DC_FN float mul_rn(float a, float b) { return __fmul_rn(a, b); }
DC_FN float div_rn(float a, float b) { return __fdiv_rn(a, b); }
DC_FN float sqrt_rn(float a) { return __fsqrt_rn(a); }
DC_FN double add_rn(double a, double b) { return __dadd_rn(a, b); }
DC_FN double mul_rn(double a, double b) { return __dmul_rn(a, b); }
DC_FN double div_rn(double a, double b) { return __ddiv_rn(a, b); }
DC_FN double sqrt_rn(double a) { return __dsqrt_rn(a); }
#else
// The host's compiler is told not to fuse.
DC_FN float add_rn(float a, float b) { return a + b; }
DC_FN float mul_rn(float a, float b) { return a * b; }
DC_FN float div_rn(float a, float b) { return a / b; }
DC_FN float sqrt_rn(float a) { return ::sqrtf(a); }
DC_FN double add_rn(double a, double b) { return a + b; }
DC_FN double mul_rn(double a, double b) { return a * b; }
DC_FN double div_rn(double a, double b) { return a / b; }
DC_FN double sqrt_rn(double a) { return ::sqrt(a); }
#endif

/// A float or double each of whose operations rounds once.
template <class T>
struct Exact {
    T v;
    DC_FN Exact(T v) : v(v) {}
    DC_FN friend Exact operator+(Exact a, Exact b) { return add_rn(a.v, b.v); }
    DC_FN friend Exact operator-(Exact a, Exact b) { return add_rn(a.v, -b.v); }
    DC_FN friend Exact operator*(Exact a, Exact b) { return mul_rn(a.v, b.v); }
    DC_FN friend Exact operator/(Exact a, Exact b) { return div_rn(a.v, b.v); }
    DC_FN friend Exact operator-(Exact a) { return -a.v; }
};

}  // namespace dc
