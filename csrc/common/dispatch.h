// Run-time choice of the instruction set.
//
// A kernel is written once, inline, and defined three times as an overload on VectorWidth: SURVCORE_TARGET_64 for
// AVX-512, SURVCORE_TARGET_32 for AVX2 and SURVCORE_TARGET_16 for the base instruction set, which is all there is on
// other processors. with_vector_width picks one. What the kernel calls must be inlined into it.
#pragma once

#include <cstdint>

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

// In the order of their preference.
enum class InstructionSet : int64_t { portable = 0, avx2 = 1, avx512 = 2, amx = 3 };

constexpr InstructionSet instruction_sets[] = {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512,
                                               InstructionSet::amx};

inline const char* name_of(InstructionSet set) {
  constexpr const char* names[] = {"portable", "avx2", "avx512", "amx"};
  return names[static_cast<int64_t>(set)];
}

// The widest vectors that this CPU has.
inline InstructionSet best_instruction_set() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
      __builtin_cpu_supports("bmi2")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide ? InstructionSet::avx512 : InstructionSet::avx2;
  }
#endif
  return InstructionSet::portable;
}

// Calls body with the VectorWidth of an instruction set that this CPU has; beside tiles, vectors are the widest.
template <class Body>
void with_vector_width(InstructionSet set, const Body& body) {
  if (set >= InstructionSet::avx512) return body(VectorWidth<64>());
  if (set == InstructionSet::avx2) return body(VectorWidth<32>());
  body(VectorWidth<16>());
}

// Calls body with the VectorWidth of this CPU.
template <class Body>
void with_vector_width(const Body& body) {
  with_vector_width(best_instruction_set(), body);
}

}  // namespace survcore
