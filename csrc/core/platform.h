// Marks functions that the CPU and the CUDA kernels share.
#pragma once

#if defined(__CUDACC__)
#define SURVCORE_SHARED __host__ __device__ __forceinline__
#else
#define SURVCORE_SHARED inline __attribute__((always_inline))
#endif
