#pragma once
#include <stdint.h>

/// A divisor of numbers below 2^31, as a multiplication: n / value = (mulhi(n, factor) + n) >> shift.
typedef struct Divisor {
    /// The divisor.
    uint32_t value;
    /// ⌊2^32·(2^shift − value) / value⌋ + 1
    uint32_t factor;
    /// ⌈log2 value⌉
    uint32_t shift;
    /// Padding.
    uint32_t reserved;
} Divisor;
