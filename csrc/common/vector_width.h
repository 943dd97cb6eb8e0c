// Run-time choice of the instruction set where the source depends on the width of its vectors (elsewhere: dispatch.h).
//
// A kernel is written once as a template over the bytes of a vector, and defined three times as an overload on
// VectorWidth: SURVCORE_TARGET_64 for AVX-512, SURVCORE_TARGET_32 for AVX2 and SURVCORE_TARGET_16 for the base
// instruction set. What it calls must be inlined into it.
#pragma once

namespace survcore {

template <int bytes>
struct VectorWidth {};

#if defined(__x86_64__) && defined(__GNUC__)
#define SURVCORE_TARGET_64 [[maybe_unused]] __attribute__((target("arch=x86-64-v4")))
#define SURVCORE_TARGET_32 [[maybe_unused]] __attribute__((target("arch=x86-64-v3")))
#else
#define SURVCORE_TARGET_64 [[maybe_unused]]
#define SURVCORE_TARGET_32 [[maybe_unused]]
#endif
#define SURVCORE_TARGET_16 [[maybe_unused]]

// Calls body with the VectorWidth of this CPU.
template <class Body>
void with_vector_width(const Body& body) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("x86-64-v4")) return body(VectorWidth<64>());
  if (__builtin_cpu_supports("x86-64-v3")) return body(VectorWidth<32>());
#endif
  body(VectorWidth<16>());
}

}  // namespace survcore
