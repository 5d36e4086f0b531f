// Written by tools/bindgen: what Rust believes of the structs of ffi/, for the C++ compilers to prove.
// headers sha256: 57721c5f4794c8c175cbef09b1fa9a3b6bd8f59ab934c4fa937dc993df8d4ab5
#include <cstddef>

#include "../../ffi/activation.h"
#include "../../ffi/adaln.h"
#include "../../ffi/epilogue.h"

static_assert(sizeof(ActivationMap) == 48, "sizeof(ActivationMap)");
static_assert(offsetof(ActivationMap, x) == 0, "offsetof(ActivationMap, x)");
static_assert(offsetof(ActivationMap, dy) == 8, "offsetof(ActivationMap, dy)");
static_assert(offsetof(ActivationMap, y) == 16, "offsetof(ActivationMap, y)");
static_assert(offsetof(ActivationMap, len) == 24, "offsetof(ActivationMap, len)");
static_assert(offsetof(ActivationMap, kind) == 32, "offsetof(ActivationMap, kind)");
static_assert(offsetof(ActivationMap, a) == 36, "offsetof(ActivationMap, a)");
static_assert(offsetof(ActivationMap, b) == 40, "offsetof(ActivationMap, b)");
static_assert(offsetof(ActivationMap, reserved) == 44, "offsetof(ActivationMap, reserved)");
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
static_assert(sizeof(Epilogue) == 32, "sizeof(Epilogue)");
static_assert(offsetof(Epilogue, bias) == 0, "offsetof(Epilogue, bias)");
static_assert(offsetof(Epilogue, residual) == 8, "offsetof(Epilogue, residual)");
static_assert(offsetof(Epilogue, alpha) == 16, "offsetof(Epilogue, alpha)");
static_assert(offsetof(Epilogue, act) == 20, "offsetof(Epilogue, act)");
static_assert(offsetof(Epilogue, act_a) == 24, "offsetof(Epilogue, act_a)");
static_assert(offsetof(Epilogue, act_b) == 28, "offsetof(Epilogue, act_b)");
