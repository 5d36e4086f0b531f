// Indices of strided tensors.
#pragma once

#include "../../ffi/index.h"
#include "dc.cuh"

namespace dc {

/// n / d.value for n < 2^31.
DC_FN uint32_t divide(uint32_t n, const Divisor& d) {
#ifdef __CUDA_ARCH__
    const uint32_t high = __umulhi(n, d.factor);
#else
    const uint32_t high = uint32_t(uint64_t(n) * d.factor >> 32);
#endif
    return (high + n) >> d.shift;
}

/// Takes the last digit off `n`: n becomes n / d.value, the remainder is the result.
DC_FN uint32_t take_digit(uint32_t& n, const Divisor& d) {
    const uint32_t quotient = divide(n, d), digit = n - quotient * d.value;
    n = quotient;
    return digit;
}

/// The number of the lowest bit that is set; some bit is.
DC_FN int lowest_bit(unsigned x) {
#ifdef __CUDA_ARCH__
    return __ffs(int(x)) - 1;
#else
    return __builtin_ctz(x);
#endif
}

}  // namespace dc
