// What the stand-ins of NVIDIA's libraries share: numbers in memory, the made-up times of algorithms, and the
// stand-in driver that their calls go to.
#pragma once
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace fake {

enum Type { F32, F16, BF16 };

inline int size(Type t) { return t == F32 ? 4 : 2; }

inline double load(Type t, uint64_t base, int64_t at) {
    if (t == F32) return reinterpret_cast<const float*>(base)[at];
    const uint16_t bits = reinterpret_cast<const uint16_t*>(base)[at];
    if (t == F16) return double(reinterpret_cast<const _Float16*>(base)[at]);
    const uint32_t wide = uint32_t(bits) << 16;
    float f;
    std::memcpy(&f, &wide, 4);
    return f;
}

/// The nearest value of the type, from a float as libraries accumulate.
inline void store(Type t, uint64_t base, int64_t at, double x) {
    const float f = float(x);
    if (t == F32) {
        reinterpret_cast<float*>(base)[at] = f;
    } else if (t == F16) {
        reinterpret_cast<_Float16*>(base)[at] = _Float16(f);
    } else {
        uint32_t u;
        std::memcpy(&u, &f, 4);
        reinterpret_cast<uint16_t*>(base)[at] = uint16_t(f != f ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
}

inline double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

/// Microseconds of each algorithm, its heuristic's order: FAKE_LIBRARY_US, `900,400,x`; `x` is one that is proposed
/// and then fails (negative here).
inline std::vector<double> algorithms() {
    const char* list = std::getenv("FAKE_LIBRARY_US");
    std::vector<double> all;
    std::string word;
    for (const char* c = list ? list : "500";; ++c) {
        if (*c && *c != ',') {
            word += *c;
            continue;
        }
        all.push_back(word == "x" ? -1 : std::atof(word.c_str()));
        word.clear();
        if (!*c) return all;
    }
}

inline size_t version(const char* variable, size_t usual) {
    const char* said = std::getenv(variable);
    return said ? std::strtoul(said, nullptr, 10) : usual;
}

using Submit = int (*)(void*, int (*)(const void*), const void*, size_t, double);

/// Gives a call to the stand-in driver, which the process has loaded.
template <class Call>
int submit(void* stream, int (*run)(const void*), const Call& call, double us) {
    static const auto submit = reinterpret_cast<Submit>(
        dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), "fake_cuda_submit"));
    return submit(stream, run, &call, sizeof call, us);
}

}  // namespace fake
