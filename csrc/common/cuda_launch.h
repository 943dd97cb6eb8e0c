// What a CUDA kernel needs from its process: torch's current stream, and an error that names the failing call.
//
// The CUDA library links neither libtorch_cuda nor a shared CUDA runtime, so that one build loads under every torch.
// The current stream is asked of the libtorch_cuda that is already in the process.
#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace survcore {

inline cudaStream_t current_stream(int32_t device) {
  using GetCurrentStream = int32_t (*)(int32_t device, void** stream);
  static const GetCurrentStream get_current_stream = [] {
    // torch loads this library with local symbols: it has to be opened again (never loaded anew) to be looked into.
    void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return torch_cuda ? reinterpret_cast<GetCurrentStream>(dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream"))
                      : nullptr;
  }();
  STD_TORCH_CHECK(get_current_stream != nullptr, "survcore's CUDA kernels need a torch that was built with CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(get_current_stream(device, &stream) == 0, "torch has no current CUDA stream for device ", device);
  return static_cast<cudaStream_t>(stream);
}

// Call after a launch.
inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "launch of ", kernel, " failed: ", cudaGetErrorString(error));
}

}  // namespace survcore
