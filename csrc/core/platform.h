// Marks functions that the CPU and the CUDA kernels share, and says what is the same on every GPU.
#pragma once

#if defined(__CUDACC__)
#define SURVCORE_SHARED __host__ __device__ __forceinline__
#else
#define SURVCORE_SHARED inline __attribute__((always_inline))
#endif

namespace survcore {

constexpr int warp_lanes = 32;

}  // namespace survcore
