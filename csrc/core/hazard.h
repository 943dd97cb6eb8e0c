// Mathematics of the discrete-time hazard likelihood.
//
// With logits x_j and hazards h_j = sigmoid(x_j): -log(1 - h_j) = softplus(x_j) and -log(h_j) = softplus(-x_j). Every
// form of a row's loss is therefore a sum of softplus(y_j) over consecutive bins, y_j = x_j but for the event bin,
// where y_j = -x_j.
#pragma once

#include <cstdint>

#include "core/elementary.h"

namespace survcore {

struct HazardForm {
  bool censored_at_start;  // a censored row survives the bins before its own only
  bool event_bin_only;     // MUST eq. 6 as printed: an event row counts its own bin only
};

// How an event code reads: codes other than 0 are events, NaN is neither.
enum Event : int32_t { kCensored = 0, kObserved = 1, kUndefined = 2 };

template <class Code>
SURVCORE_SHARED int32_t event_of(Code code) {
  return code != code ? kUndefined : code != Code(0) ? kObserved : kCensored;
}

// A row whose bin is outside 0..bins-1 or whose event is undefined has NaN for loss and gradient.
SURVCORE_SHARED bool hazard_row_valid(int64_t time_bin, int32_t event, int32_t bins) {
  return (static_cast<uint64_t>(time_bin) < static_cast<uint64_t>(bins)) & (event != kUndefined);
}

// The bins [begin, end) that a valid row reads, and its event bin (-1: none).
struct HazardRow {
  int32_t begin;
  int32_t end;
  int32_t flipped;
};

// An invalid row has bounds without meaning.
SURVCORE_SHARED HazardRow hazard_row(int64_t time_bin, int32_t event, HazardForm form) {
  const int32_t bin = static_cast<int32_t>(time_bin);
  const uint32_t after_censored = form.censored_at_start ? 0 : 1;
  const int32_t before_event = form.event_bin_only ? -1 : 0;  // as a mask
  const bool observed = event != kCensored;
  // Unsigned, since the bin of an invalid row may be the largest integer.
  const uint32_t end = static_cast<uint32_t>(bin) + (observed ? 1 : after_censored);
  return {observed ? (bin & before_event) : 0, static_cast<int32_t>(end), observed ? bin : -1};
}

// softplus(y) = max(y, 0) + log1p(exp(-|y|)) of one bin, and its slope, from one exponential. A bin that is not active
// adds nothing, whatever x is.
template <class Real>
struct SoftplusTerm {
  using Bits = typename detail::Format<Real>::Bits;
  static constexpr Bits sign_bit = Bits(1) << (8 * sizeof(Real) - 1);

  bool active;
  Bits sign;      // sign_bit where y = -x
  Real tail;      // exp(-|y|)
  bool positive;  // active and y > 0
  Real linear;    // max(y, 0)

  SURVCORE_SHARED SoftplusTerm(Real x, bool flipped, bool active_)
      : active(active_),
        sign(flipped ? sign_bit : Bits(0)),
        tail(exp_nonpositive(detail::bits_as<Real>(Bits(detail::bits_as<Bits>(x) | sign_bit)), active_)) {
    const Real y = detail::bits_as<Real>(Bits(detail::bits_as<Bits>(x) ^ sign));
    positive = active & (y > Real(0));
    linear = detail::kept_if(positive, y);
  }

  // factor * d softplus(y) / dx = factor * dy/dx * sigmoid(y), accurate in both tails.
  SURVCORE_SHARED Real slope(Real factor) const {
    const Real signed_factor = detail::bits_as<Real>(Bits(detail::bits_as<Bits>(factor) ^ sign));
    const Real sigmoid = (positive ? Real(1) : tail) * reciprocal_of_one_to_two(Real(1) + tail);
    return detail::kept_if(active, sigmoid * signed_factor);
  }
};

// Sum of softplus(y_j). The logarithms are gathered as one product prod(1 + tail_j) - 1, which keeps the relative
// accuracy of small terms and needs one logarithm for many bins.
template <class Real>
struct SoftplusSum {
  static constexpr int64_t capacity = 64;  // terms before fold(): 2^64 is far from overflow

  Real linear = 0;
  Real product_minus_one = 0;

  SURVCORE_SHARED void add(const SoftplusTerm<Real>& term) {
    linear += term.linear;
    product_minus_one = product_minus_one * (Real(1) + term.tail) + term.tail;
  }

  // `active` false adds nothing, whatever y is.
  SURVCORE_SHARED void add(Real y, bool active) { add(SoftplusTerm<Real>(y, false, active)); }

  SURVCORE_SHARED void fold() {
    linear += log1p_nonnegative(product_minus_one);
    product_minus_one = 0;
  }

  SURVCORE_SHARED Real value() const { return linear + log1p_nonnegative(product_minus_one); }
};

// Adds a bin to a sum that is kept in its parts, and returns what hazard_gradient does. All in one function, so that a
// vectorised loop sees numbers only.
template <class Real>
SURVCORE_SHARED Real add_bin(Real x, bool flipped, bool active, Real factor, Real& linear, Real& product_minus_one) {
  const SoftplusTerm<Real> term(x, flipped, active);
  SoftplusSum<Real> sum{linear, product_minus_one};
  sum.add(term);
  linear = sum.linear;
  product_minus_one = sum.product_minus_one;
  return term.slope(factor);
}

// d loss / d x_j = factor * dy_j/dx_j * sigmoid(y_j) in a bin that the row reads, 0 (whatever x is) in one that it does
// not.
template <class Real>
SURVCORE_SHARED Real hazard_gradient(Real x, Real factor, bool flipped, bool active) {
  return SoftplusTerm<Real>(x, flipped, active).slope(factor);
}

// What a mean divides by: the sum of weights, and 1 where there is nothing to average (the loss is 0 then).
SURVCORE_SHARED double hazard_divisor(double weight_sum) { return weight_sum == 0.0 ? 1.0 : weight_sum; }

}  // namespace survcore
