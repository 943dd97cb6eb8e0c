// Run-time choice of the instruction set.
//
// SURVCORE_VECTORIZED before a function makes the compiler emit it for AVX-512, AVX2 and the base instruction set, and
// the loader picks one. What the function calls must be inlined into it. Elsewhere (aarch64, musl, other compilers) the
// one portable version is built for the base instruction set.
#pragma once

#include <cstddef>  // defines __GLIBC__ where it applies

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define SURVCORE_VECTORIZED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SURVCORE_VECTORIZED
#endif

#define SURVCORE_INLINE inline __attribute__((always_inline))

// The same for a lambda: between its parameters and its body.
#define SURVCORE_INLINE_LAMBDA __attribute__((always_inline))
