// Mathematics of the contrastive losses that info_nce computes.
//
// Queries and keys are the entries 0..v-1 and v..2v-1 of one list; entry i and entry i + v belong together. Either form
// of the loss is the mean over the 2v entries of
//   log(sum_j exp(s_ij)) - s_i(own) = softplus(log(sum_{j != own} exp(s_ij)) - s_i(own)),
// with logits s_ij = z_i.z_j / temperature: "cross_modal" compares an entry with those of the other side, "nt_xent"
// with all but itself. Sums leave the own logit out, so that a small loss keeps its relative accuracy. Logits are
// symmetric: one tile of them serves its rows' sums and its columns'.
#pragma once

#include <cstdint>

#include "core/elementary.h"

namespace survcore {

// Lengths below this are taken as this, as torch.nn.functional.normalize does.
constexpr double least_length = 1e-12;

// A sum of exponentials under a shift, sum = sum of exp(s - shift), which grows by parts under other shifts. No part
// may lie further than exp_range below its shift: sums then keep their relative accuracy whatever the logits are.
template <class Real>
struct ShiftedSum {
  static constexpr Real exp_range = 80;  // exp(-80) is a normal number of float

  // Branch-free, so that a loop over arrays of shifts and sums vectorises. Shifts may be infinite.
  static SURVCORE_SHARED void add(Real& shift, double& sum, Real part_shift, double part_sum) {
    const bool rises = part_shift > shift;
    const Real distance = std::fabs(shift - part_shift);
    const Real factor = shift == part_shift ? Real(1) : exp_nonpositive(-distance);
    sum = rises ? sum * factor + part_sum : sum + part_sum * factor;
    shift = rises ? part_shift : shift;
  }
};

// exp(s - shift) where shift is the largest s; infinite ones included.
template <class Real>
SURVCORE_SHARED Real exp_below(Real s, Real shift) {
  return s == shift ? Real(1) : exp_nonpositive(s - shift);
}

// exp(x) for |x| <= ShiftedSum::exp_range and for any x below.
template <class Real>
SURVCORE_SHARED Real exp_of_either_sign(Real x) {
  const Real falling = exp_nonpositive(-std::fabs(x));
  return x > Real(0) ? Real(1) / falling : falling;
}

// A logarithm of a sum in two parts, so that logits of 100 lose nothing in float: s - value = (s - high) - low.
template <class Real>
struct LogSum {
  Real high;
  Real low;

  SURVCORE_SHARED explicit LogSum(double value)
      : high(static_cast<Real>(value)), low(static_cast<Real>(value - static_cast<double>(high))) {}

  // exp(s - value), for s that is at most the value but for rounding.
  SURVCORE_SHARED Real share(Real s) const {
    const Real x = (s - high) - low;
    return exp_nonpositive(x > Real(0) ? Real(0) : x);
  }
};

// log(1 + exp(x)), which is an entry's loss, for x = others - own; infinite ones included.
SURVCORE_SHARED double softplus(double x) {
  return (x > 0 ? x : 0) + log1p_nonnegative(exp_nonpositive(-std::fabs(x)));
}

// What a vector of that squared length is multiplied by to have length 1.
template <class Real>
SURVCORE_SHARED Real inverse_length(Real squared) {
  const Real length = std::sqrt(squared);
  const Real least = static_cast<Real>(least_length);
  return Real(1) / (length < least ? least : length);
}

// Whether the length of a vector of that inverse length depends on the vector.
template <class Real>
SURVCORE_SHARED bool length_varies(Real inverse) {
  return !(inverse >= Real(1) / static_cast<Real>(least_length));
}

}  // namespace survcore
