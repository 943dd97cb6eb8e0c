// Mathematics of DeepHit's loss.
//
// A row's outcomes are the columns of its logits, one for each cause and bin, and one more of logit 0: beyond the
// horizon. Their probabilities are p = softmax, F^r(k) = sum of p over bins 0..k of cause r. What was observed leaves
// some outcomes possible: one after an event, all later ones after censoring; the likelihood is their probability.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/platform.h"

namespace survcore {

constexpr int32_t undefined_cause = -1;

// 0 is censored, 1..causes are events; every other code, NaN too, is undefined.
template <class Code>
SURVCORE_SHARED int32_t cause_of(Code code, int32_t causes) {
  const bool inside = code >= Code(0) && code <= causes;
  const int32_t cause = static_cast<int32_t>(inside ? code : Code(0));
  return inside && static_cast<Code>(cause) == code ? cause : undefined_cause;
}

// What of a row's columns counts as what. Cause r (from 0) and bin b are column r * bins + b.
struct DeepHitRow {
  int32_t cause;     // 0 censored, r + 1 an event of cause r, undefined_cause: the row is invalid
  int32_t own;       // the column of its event; -1: it has none
  int32_t compared;  // events in bins [0, compared) are compared with this row
  int32_t possible;  // the first possible bin
};

SURVCORE_SHARED DeepHitRow deephit_row(int64_t time_bin, int32_t cause, int32_t bins) {
  const bool valid = (static_cast<uint64_t>(time_bin) < static_cast<uint64_t>(bins)) & (cause != undefined_cause);
  const int32_t bin = valid ? static_cast<int32_t>(time_bin) : 0;
  const int32_t read = valid ? cause : undefined_cause;
  const int32_t after_bin = read == 0 ? 1 : 0;
  return {read, read > 0 ? (read - 1) * bins + bin : -1, valid ? bin + after_bin : 0, bin + after_bin};
}

// How many bins of cause r, from the row's first possible one on, are possible; cut off at the last bin.
SURVCORE_SHARED int32_t possible_bins(int32_t row_cause, int32_t cause, int32_t bins) {
  return row_cause == 0 ? bins : row_cause == cause + 1 ? 1 : 0;
}

SURVCORE_SHARED bool is_possible(int32_t bin, int32_t first, int32_t count) {
  return static_cast<uint32_t>(bin) - static_cast<uint32_t>(first) < static_cast<uint32_t>(count);
}

// One row in double precision with a shift of its own for each sum, for what vectors with one shift cannot hold. An
// infinite logit takes all probability, several share it.
template <class Real>
class ExactDeepHitRow {
 public:
  ExactDeepHitRow(const Real* logits, DeepHitRow row, int32_t causes, int32_t bins)
      : logits_(logits), row_(row), causes_(causes), bins_(bins) {
    const auto all = [](int32_t, int32_t) { return true; };
    const auto possible = [this](int32_t cause, int32_t bin) {
      return is_possible(bin, row_.possible, possible_bins(row_.cause, cause, bins_));
    };
    shift_ = largest(0.0, all);
    sum_ = sum(shift_, std::exp(-shift_), all);
    possible_shift_ = largest(row.cause == 0 ? 0.0 : -infinity, possible);
    possible_sum_ = sum(possible_shift_, row.cause == 0 ? std::exp(-possible_shift_) : 0.0, possible);
  }

  // -log of the probability of the possible outcomes of a valid row.
  double loss() const {
    return (shift_ == possible_shift_ ? 0.0 : shift_ - possible_shift_) + std::log(sum_ / possible_sum_);
  }

  double probability(int32_t column) const { return exponential(column, shift_) / sum_; }

  // The probability of a column given that the outcome is a possible one; 0 of one that is not.
  double probability_if_possible(int32_t column) const {
    const int32_t cause = column / bins_;
    if (!is_possible(column % bins_, row_.possible, possible_bins(row_.cause, cause, bins_))) return 0;
    return row_.cause == 0 ? exponential(column, possible_shift_) / possible_sum_ : 1;
  }

 private:
  static constexpr double infinity = HUGE_VAL;

  double exponential(int32_t column, double shift) const {
    const double x = static_cast<double>(logits_[column]);
    return x == shift ? 1.0 : std::exp(x - shift);
  }

  template <class Chosen>
  double largest(double start, const Chosen& chosen) const {
    double result = start;
    for (int32_t cause = 0; cause < causes_; ++cause) {
      for (int32_t bin = 0; bin < bins_; ++bin) {
        const double x = static_cast<double>(logits_[cause * bins_ + bin]);
        if (chosen(cause, bin) && x > result) result = x;
      }
    }
    return result;
  }

  template <class Chosen>
  double sum(double shift, double start, const Chosen& chosen) const {
    double result = start;
    for (int32_t cause = 0; cause < causes_; ++cause) {
      for (int32_t bin = 0; bin < bins_; ++bin) {
        if (chosen(cause, bin)) result += exponential(cause * bins_ + bin, shift);
      }
    }
    return result;
  }

  const Real* logits_;
  DeepHitRow row_;
  int32_t causes_;
  int32_t bins_;
  double shift_;
  double sum_;
  double possible_shift_;
  double possible_sum_;
};

}  // namespace survcore
