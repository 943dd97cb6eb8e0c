// Mathematics of the binary cross-entropy of a logit x with target t in [0, 1] and weight w of the positive part:
// w t softplus(-x) + (1 - t) softplus(x), where softplus(y) = max(y, 0) + log(1 + exp(-|y|)).
//
// Loss and gradient share exp(-|x|), which never overflows and keeps the relative accuracy of small terms in both
// tails.
#pragma once

#include <cmath>

#include "core/elementary.h"

namespace survcore {

namespace detail {

// log(1 + a) / a as a polynomial in a - 1/2, for a in [0, 1]: Chebyshev's interpolation, relative errors 3e-8 and
// 6e-17.
SURVCORE_SHARED float log1p_quotient(float u) {
  float p = 0.005126102141f;
  p = p * u - 0.008569656114f;
  p = p * u + 0.01163957536f;
  p = p * u - 0.02023034057f;
  p = p * u + 0.03662560597f;
  p = p * u - 0.06771118662f;
  p = p * u + 0.1326094941f;
  p = p * u - 0.2885266734f;
  return p * u + 0.8109302162f;
}

SURVCORE_SHARED double log1p_quotient(double u) {
  double p = -0.0000373611109062551083;
  p = p * u + 0.0000587844450233790101;
  p = p * u - 0.0000460157530299346923;
  p = p * u + 0.0000731508665853646579;
  p = p * u - 0.000141507316145735022;
  p = p * u + 0.000225943143289923403;
  p = p * u - 0.000354982263274229354;
  p = p * u + 0.000572201726136849887;
  p = p * u - 0.000928831193581333154;
  p = p * u + 0.00151547762074169509;
  p = p * u - 0.00249184376527681445;
  p = p * u + 0.00413617278976874747;
  p = p * u - 0.00694539482709769657;
  p = p * u + 0.0118337923524883007;
  p = p * u - 0.020548811923727202;
  p = p * u + 0.0366118545184315681;
  p = p * u - 0.0676886433108991163;
  p = p * u + 0.132609753754238557;
  p = p * u - 0.288527099099324167;
  return p * u + 0.810930216216328721;
}

}  // namespace detail

// log(1 + a) for a in [0, 1], without a division. NaN gives NaN.
template <class Real>
SURVCORE_SHARED Real log1p_of_zero_to_one(Real a) {
#if defined(__CUDA_ARCH__)
  return log1p(a);
#else
  return a * detail::log1p_quotient(a - Real(0.5));
#endif
}

// What loss and gradient of one logit are made of.
template <class Real>
struct LogitParts {
  Real positive;  // max(x, 0)
  Real negative;  // max(-x, 0)
  Real small;     // exp(-|x|)
  Real upper;     // the larger one of sigmoid(x) and sigmoid(-x)
  bool below;     // x < 0

  SURVCORE_SHARED Real sigmoid() const { return below ? small * upper : upper; }
  SURVCORE_SHARED Real opposite() const { return below ? upper : small * upper; }  // sigmoid(-x)
};

template <class Real>
SURVCORE_SHARED LogitParts<Real> logit_parts(Real x) {
  const Real small = exp_nonpositive(-std::fabs(x));
  const bool below = x < Real(0);
  return {x > Real(0) ? x : Real(0), below ? -x : Real(0), small, reciprocal_of_one_to_two(Real(1) + small), below};
}

// Loss and its derivative.
template <class Real>
struct CrossEntropy {
  Real loss;
  Real gradient;
};

// A target of 0 or 1. A weight of 0 leaves nothing, whatever the logit is.
template <class Real>
SURVCORE_SHARED CrossEntropy<Real> cross_entropy(Real x, bool target, Real weight) {
  const LogitParts<Real> parts = logit_parts(target ? -x : x);
  const Real factor = target ? weight : Real(1);
  const bool kept = factor != Real(0);
  const Real loss = factor * (parts.positive + log1p_of_zero_to_one(parts.small));
  const Real gradient = factor * parts.sigmoid();
  return {kept ? loss : Real(0), kept ? (target ? -gradient : gradient) : Real(0)};
}

// A target between 0 and 1, or NaN. A part that target or weight leave out is 0, however large the other parts are.
template <class Real>
SURVCORE_SHARED CrossEntropy<Real> cross_entropy(Real x, Real target, Real weight) {
  const LogitParts<Real> parts = logit_parts(x);
  const Real logarithm = log1p_of_zero_to_one(parts.small);
  const Real of_negative = Real(1) - target;
  const Real of_positive = target == Real(0) ? Real(0) : target * weight;
  const bool negative = of_negative != Real(0), positive = of_positive != Real(0);
  const Real negative_loss = negative ? of_negative * (parts.positive + logarithm) : Real(0);
  const Real positive_loss = positive ? of_positive * (parts.negative + logarithm) : Real(0);
  const Real negative_gradient = negative ? of_negative * parts.sigmoid() : Real(0);
  const Real positive_gradient = positive ? of_positive * parts.opposite() : Real(0);
  return {negative_loss + positive_loss, negative_gradient - positive_gradient};
}

}  // namespace survcore
