// Run-time choice of the instruction set.
//
// A kernel is written once, inline, and defined three times as an overload on VectorWidth: SURVCORE_TARGET_64 for
// AVX-512, SURVCORE_TARGET_32 for AVX2 and SURVCORE_TARGET_16 for the base instruction set, which is all there is on
// other processors. with_vector_width picks one. What the kernel calls must be inlined into it.
#pragma once

namespace survcore {

#define SURVCORE_INLINE inline __attribute__((always_inline))

// The same for a lambda: between its parameters and its body.
#define SURVCORE_INLINE_LAMBDA __attribute__((always_inline))

template <int bytes>
struct VectorWidth {};

// Single features, not levels such as x86-64-v4, which GCC 11 does not know here.
#if defined(__x86_64__) && defined(__GNUC__)
#define SURVCORE_TARGET_64 \
  [[maybe_unused]] __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2")))
#define SURVCORE_TARGET_32 [[maybe_unused]] __attribute__((target("avx2,fma,bmi,bmi2")))
#else
#define SURVCORE_TARGET_64 [[maybe_unused]]
#define SURVCORE_TARGET_32 [[maybe_unused]]
#endif
#define SURVCORE_TARGET_16 [[maybe_unused]]

// Calls body with the VectorWidth of this CPU.
template <class Body>
void with_vector_width(const Body& body) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
      __builtin_cpu_supports("bmi2")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide ? body(VectorWidth<64>()) : body(VectorWidth<32>());
  }
#endif
  body(VectorWidth<16>());
}

}  // namespace survcore
