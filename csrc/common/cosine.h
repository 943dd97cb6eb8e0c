// Inner products of long vectors, and the absolute cosine of two with its gradient.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/dispatch.h"

namespace survcore {

constexpr double cosine_epsilon = 1e-8;  // smallest norm that a cosine divides by

template <class Real>
SURVCORE_INLINE Real dot(const Real* left, const Real* right, int64_t width) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += left[i] * right[i];
  return sum;
}

template <class Real>
SURVCORE_INLINE Real squared_distance(const Real* left, const Real* right, int64_t width) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += (left[i] - right[i]) * (left[i] - right[i]);
  return sum;
}

// values += factor * other
template <class Real>
SURVCORE_INLINE void add(Real* values, Real factor, const Real* other, int64_t width) {
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) values[i] += factor * other[i];
}

// x.y / (max(|x|, eps) max(|y|, eps)), with what its gradient needs.
template <class Real>
struct Cosine {
  Real value;
  Real left_norm;
  Real right_norm;
  Real scale;  // 1 / product of the norms held above eps

  SURVCORE_INLINE Cosine(const Real* left, const Real* right, int64_t width)
      : left_norm(std::sqrt(dot(left, left, width))), right_norm(std::sqrt(dot(right, right, width))) {
    const Real epsilon = static_cast<Real>(cosine_epsilon);
    const Real left_held = left_norm < epsilon ? epsilon : left_norm;
    const Real right_held = right_norm < epsilon ? epsilon : right_norm;
    scale = 1 / (left_held * right_held);
    value = dot(left, right, width) * scale;
  }
};

template <class Real>
SURVCORE_INLINE Real absolute_cosine(const Real* left, const Real* right, int64_t width) {
  return std::abs(Cosine<Real>(left, right, width).value);
}

// Adds factor * d|cos| to the gradients of both sides. A norm held at eps is constant, and the subgradient at 0 is 0.
template <class Real>
SURVCORE_INLINE void absolute_cosine_gradient(const Real* left, const Real* right, int64_t width, Real factor,
                                              Real* left_gradient, Real* right_gradient) {
  const Cosine<Real> cosine(left, right, width);
  const Real signed_factor = cosine.value > 0 ? factor : cosine.value < 0 ? -factor : factor * cosine.value;
  const Real across = signed_factor * cosine.scale;
  const Real along = signed_factor * cosine.value;
  const Real epsilon = static_cast<Real>(cosine_epsilon);
  const Real left_along = cosine.left_norm < epsilon ? Real(0) : along / (cosine.left_norm * cosine.left_norm);
  const Real right_along = cosine.right_norm < epsilon ? Real(0) : along / (cosine.right_norm * cosine.right_norm);
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    left_gradient[i] += across * right[i] - left_along * left[i];
    right_gradient[i] += across * left[i] - right_along * right[i];
  }
}

}  // namespace survcore
