#pragma once
#include <stdint.h>

#ifdef __cplusplus
#define TENSOR_MAP_ALIGN alignas(64)
#else
#define TENSOR_MAP_ALIGN _Alignas(64)
#endif

/// A tensor for the tensor copies of sm_90 (cuda/include/sm90.cuh), as the device that made it encodes it
/// (`KernelDevice::tensor_map`; on a GPU the driver's CUtensorMap). Part of the parameters of kernels `*_sm90`,
/// at a multiple of 64 bytes.
typedef struct TensorMap {
    /// For the device alone.
    TENSOR_MAP_ALIGN uint64_t opaque[16];
} TensorMap;
