// Written by tools/bindgen: what Rust believes of the structs of ffi/, for the C++ compilers to prove.
// headers sha256: 83004047c5b0356023588f1b8423316a23a72968148072575b44bf913424dbeb
#include <cstddef>

#include "../../ffi/adaln.h"

static_assert(sizeof(AdalnFwd) == 72, "sizeof(AdalnFwd)");
static_assert(offsetof(AdalnFwd, x) == 0, "offsetof(AdalnFwd, x)");
static_assert(offsetof(AdalnFwd, shift) == 8, "offsetof(AdalnFwd, shift)");
static_assert(offsetof(AdalnFwd, scale) == 16, "offsetof(AdalnFwd, scale)");
static_assert(offsetof(AdalnFwd, y) == 24, "offsetof(AdalnFwd, y)");
static_assert(offsetof(AdalnFwd, x_step) == 32, "offsetof(AdalnFwd, x_step)");
static_assert(offsetof(AdalnFwd, shift_step) == 40, "offsetof(AdalnFwd, shift_step)");
static_assert(offsetof(AdalnFwd, scale_step) == 48, "offsetof(AdalnFwd, scale_step)");
static_assert(offsetof(AdalnFwd, rows) == 56, "offsetof(AdalnFwd, rows)");
static_assert(offsetof(AdalnFwd, cols) == 60, "offsetof(AdalnFwd, cols)");
static_assert(offsetof(AdalnFwd, tokens) == 64, "offsetof(AdalnFwd, tokens)");
static_assert(offsetof(AdalnFwd, eps) == 68, "offsetof(AdalnFwd, eps)");
