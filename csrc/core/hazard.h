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

// Sum of softplus(y_j) = max(y_j, 0) + log1p(exp(-|y_j|)). The second parts are gathered as one product
// prod(1 + a_j) - 1, which keeps the relative accuracy of small terms and needs one logarithm per row instead of one
// per bin.
template <class Real>
struct SoftplusSum {
  static constexpr int64_t capacity = 64;  // terms before fold(): 2^64 is far from overflow

  Real linear = 0;
  Real product_minus_one = 0;

  // `active` false adds nothing, whatever y is.
  SURVCORE_SHARED void add(Real y, bool active) {
    const Real a = active ? exp_nonpositive(-std::fabs(y)) : Real(0);
    linear += (active & (y > Real(0))) ? y : Real(0);
    product_minus_one = product_minus_one * a + (product_minus_one + a);
  }

  SURVCORE_SHARED void fold() {
    linear += log1p_nonnegative(product_minus_one);
    product_minus_one = 0;
  }

  SURVCORE_SHARED Real value() const { return linear + log1p_nonnegative(product_minus_one); }
};

// softplus'(y) = sigmoid(y), accurate in both tails.
template <class Real>
SURVCORE_SHARED Real sigmoid(Real y) {
  const Real a = exp_nonpositive(-std::fabs(y));
  const Real upper = reciprocal_of_one_to_two(Real(1) + a);
  return y < Real(0) ? a * upper : upper;
}

// d loss / d x_j = factor * dy_j/dx_j * sigmoid(y_j) in a bin that the row reads, 0 (whatever x is) in one that it does
// not.
template <class Real>
SURVCORE_SHARED Real hazard_gradient(Real x, Real factor, bool flipped, bool active) {
  const Real gradient = factor * sigmoid(flipped ? -x : x);
  return active ? (flipped ? -gradient : gradient) : Real(0);
}

// What a mean divides by: the sum of weights, and 1 where there is nothing to average (the loss is 0 then).
SURVCORE_SHARED double hazard_divisor(double weight_sum) { return weight_sum == 0.0 ? 1.0 : weight_sum; }

}  // namespace survcore
