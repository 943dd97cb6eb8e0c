// The error function and the erf form of GELU, x Phi(x).
//
// In float32 erf is an odd rational function, branch-free so that a plain loop over it vectorises; its error stays
// below 4e-7, which is below what the sum 1 + erf keeps. In float64 it is the C library's.
#pragma once

#include <cmath>

#include "core/platform.h"

namespace survcore {

// NaN gives NaN; beyond 3.9 the nearest float32 is 1.
SURVCORE_SHARED float error_function(float x) {
#if defined(__CUDA_ARCH__)
  return erff(x);
#else
  const float clamped = x > 3.9257250f ? 3.9257250f : (x < -3.9257250f ? -3.9257250f : x);
  const float square = clamped * clamped;
  float p = 2.123732202e-06f;
  p = p * square + 2.861979592e-04f;
  p = p * square + 3.658048343e-03f;
  p = p * square + 5.243302137e-02f;
  p = p * square + 1.874160767e-01f;
  p = p * square + 1.128379107f;
  float q = 3.891857341e-05f;
  q = q * square + 1.143296016e-03f;
  q = q * square + 1.475208811e-02f;
  q = q * square + 1.129456758e-01f;
  q = q * square + 4.994257987e-01f;
  q = q * square + 1.0f;
  const float y = clamped * (p / q);
  return y > 1.0f ? 1.0f : (y < -1.0f ? -1.0f : y);
#endif
}

SURVCORE_SHARED double error_function(double x) { return erf(x); }

// GELU with the error function, as torch.nn.GELU computes it by default.
template <class Real>
SURVCORE_SHARED Real gelu(Real x) {
  return Real(0.5) * x * (Real(1) + error_function(x * Real(0.70710678118654752440)));
}

}  // namespace survcore
