// The error function and the erf form of GELU, x Phi(x).
//
// In float32 erf is an odd rational function, branch-free so that a plain loop over it vectorises; its error stays below
// 4e-7, which is below what the sum 1 + erf keeps. In float64 it is the C library's.
#pragma once

#include <cmath>

#include "core/platform.h"

namespace survcore {

// NaN gives NaN; beyond 3.9 the nearest float32 is 1.
SURVCORE_SHARED float error_function(float x) {
#if defined(__CUDA_ARCH__)
  return erff(x);
#else
  const float clamped = x > 3.9f ? 3.9f : (x < -3.9f ? -3.9f : x);
  const float square = clamped * clamped;
  float p = 2.0664616e-06f;
  p = p * square + 2.85046280e-04f;
  p = p * square + 3.73791313e-03f;
  p = p * square + 5.26667149e-02f;
  p = p * square + 1.89657614e-01f;
  p = p * square + 1.12837915f;
  float q = 3.82690695e-05f;
  q = q * square + 1.15725986e-03f;
  q = q * square + 1.49134107e-02f;
  q = q * square + 1.13815017e-01f;
  q = q * square + 5.01412468e-01f;
  q = q * square + 1.0f;
  return clamped * (p / q);
#endif
}

SURVCORE_SHARED double error_function(double x) { return erf(x); }

// GELU with the error function, as torch.nn.GELU computes it by default.
template <class Real>
SURVCORE_SHARED Real gelu(Real x) {
  return Real(0.5) * x * (Real(1) + error_function(x * Real(0.70710678118654752440)));
}

}  // namespace survcore
