// Sums of relative hazards, plain and as pairs that never overflow, and the terms of a group of tied events.
#pragma once

#include <cmath>

#include "core/platform.h"

namespace survcore {

// A sum of terms factor * exp(exponent), kept as it is: for exponents that stay within a double's range.
struct PlainSum {
  double sum = 0;

  SURVCORE_SHARED void add_exp(double factor, double exponent) { sum += factor * exp(exponent); }
  SURVCORE_SHARED void add(const PlainSum& other) { sum += other.sum; }
  SURVCORE_SHARED void add_quotient(double factor, const PlainSum& divisor) { sum += factor / divisor.sum; }
  SURVCORE_SHARED double over(const PlainSum& divisor) const { return sum / divisor.sum; }
  SURVCORE_SHARED double times_exp(double exponent) const { return exp(exponent) * sum; }
  // The log of the sum is origin() + log_rest().
  SURVCORE_SHARED double origin() const { return 0; }
  SURVCORE_SHARED double log_rest() const { return log(sum); }
};

// The same sum as exp(largest) * scaled: for exponents of any size. Exponents meet as differences only, which are exact
// where they matter.
struct PairSum {
  double largest = -HUGE_VAL;
  double scaled = 0;

  SURVCORE_SHARED void add_exp(double factor, double exponent) { add(PairSum{exponent, factor}); }
  SURVCORE_SHARED void add(const PairSum& other) {
    if (other.scaled == 0 || other.largest == -HUGE_VAL) return;
    if (other.largest <= largest) {
      scaled += other.scaled * exp(other.largest - largest);
    } else {
      scaled = (scaled == 0 ? 0 : scaled * exp(largest - other.largest)) + other.scaled;
      largest = other.largest;
    }
  }
  SURVCORE_SHARED void add_quotient(double factor, const PairSum& divisor) {
    add(PairSum{-divisor.largest, factor / divisor.scaled});
  }
  SURVCORE_SHARED double over(const PairSum& divisor) const {
    return scaled == 0 ? 0 : exp(largest - divisor.largest) * (scaled / divisor.scaled);
  }
  SURVCORE_SHARED double times_exp(double exponent) const { return scaled == 0 ? 0 : exp(exponent + largest) * scaled; }
  SURVCORE_SHARED double origin() const { return largest; }
  SURVCORE_SHARED double log_rest() const { return log(scaled); }
};

// Events of one time: d of them with the summed weight `weight`, S the sum over their risk set and E over themselves.
// Term l of the d has the denominator A_l = S - c_l E, c_l = l / d (0 with Breslow's rule), and the weight of a mean
// event.
//
// Adds the sums of weight / A_l and of c_l weight / A_l; returns the sum of weight * (log A_l - origin of S).
template <class Sum>
SURVCORE_SHARED double add_tied_events(int events, double weight, bool efron, const Sum& at_risk, const Sum& tied,
                                       Sum& reciprocals, Sum& own_reciprocals) {
  if (!efron || events == 1) {
    reciprocals.add_quotient(weight, at_risk);
    return weight * at_risk.log_rest();
  }
  const double mean_weight = weight / events;
  const double share = tied.over(at_risk);
  double plain = 0;
  double own = 0;
  double logs = 0;
  for (int l = 0; l < events; ++l) {
    const double fraction = static_cast<double>(l) / events;
    const double rest = 1 - fraction * share;  // A_l / S, at least 1 / d
    plain += 1 / rest;
    own += fraction / rest;
    logs += log(rest);
  }
  reciprocals.add_quotient(mean_weight * plain, at_risk);
  own_reciprocals.add_quotient(mean_weight * own, at_risk);
  return weight * at_risk.log_rest() + mean_weight * logs;
}

// What the same events add to the cumulative baseline hazard, the sum of weight / A_l, and to its variance, the sum of
// weight / A_l^2, as logarithms.
struct BaselineTerms {
  double log_hazard;
  double log_variance;
};

template <class Sum>
SURVCORE_SHARED BaselineTerms baseline_terms(int events, double weight, bool efron, const Sum& at_risk,
                                             const Sum& tied) {
  const double mean_weight = weight / events;
  const double share = efron && events > 1 ? tied.over(at_risk) : 0;
  double first = 0;
  double second = 0;
  for (int l = 0; l < events; ++l) {
    const double rest = 1 - l * share / events;
    first += 1 / rest;
    second += 1 / (rest * rest);
  }
  const double log_at_risk = at_risk.origin() + at_risk.log_rest();
  return {log(mean_weight * first) - log_at_risk, log(mean_weight * second) - 2 * log_at_risk};
}

}  // namespace survcore
