// The partial likelihood one row after the other, through the sums of core/cox.h: for log-hazards of any size, with and
// without late entries.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "common/cox_problem.h"
#include "common/interval_sums.h"
#include "core/cox.h"

namespace survcore {

// How sums over intervals go through their blocks here.
constexpr auto one_by_one = [](int64_t blocks, int64_t, const auto& body) {
  for (int64_t block = 0; block < blocks; ++block) body(block);
};

// The sum over the risk set of each group. `shift` is subtracted from all log-hazards.
template <class Sum, class Real>
std::vector<Sum> sums_at_risk(const CoxProblem<Real>& problem, double shift) {
  const auto for_each_row = [&](int32_t group, const auto& visit) {
    for (int64_t position = problem.begin(group); position < problem.end(group); ++position) {
      visit(position, problem.weight_at(position), problem.log_hazard_at(position) - shift);
    }
  };
  if (problem.has(cox_truncated)) {
    const int32_t* last = problem.plan.last();
    CoveringSums<Sum> covering(problem.groups);
    covering.begin(0);
    for (int32_t group = 0; group < problem.groups; ++group) {
      for_each_row(group, [&](int64_t position, double weight, double exponent) {
        covering.cover(0, group, last[position], [&](Sum& sum) { sum.add_exp(weight, exponent); });
      });
    }
    return std::move(covering).totals(one_by_one);
  }
  std::vector<Sum> sums(problem.groups);
  Sum sum;
  for (int32_t group = 0; group < problem.groups; ++group) {
    if (problem.begins_stratum(group)) sum = Sum();
    for_each_row(group, [&](int64_t, double weight, double exponent) { sum.add_exp(weight, exponent); });
    sums[group] = sum;
  }
  return sums;
}

// The events of a group: their relative hazards, their weight, and the weighted sum of how far their log-hazards lie
// below `origin`.
template <class Sum>
struct TiedEvents {
  Sum sum;
  double weight = 0;
  double distance = 0;
};

template <class Sum, class Real>
TiedEvents<Sum> tied_events(const CoxProblem<Real>& problem, int32_t group, double shift, double origin) {
  TiedEvents<Sum> tied;
  const int32_t events = problem.plan.events()[group];
  for (int64_t position = problem.end(group) - events; position < problem.end(group); ++position) {
    const double weight = problem.weight_at(position);
    if (weight == 0) continue;
    const double exponent = problem.log_hazard_at(position) - shift;
    tied.sum.add_exp(weight, exponent);
    tied.weight += weight;
    tied.distance += weight * (origin - exponent);
  }
  return tied;
}

// The loss; gradients of all rows are written where `gradient` is not null.
template <class Sum, class Real>
double serial_loss(const CoxProblem<Real>& problem, double shift, bool mean, Real* gradient) {
  const bool truncated = problem.has(cox_truncated);
  const std::vector<Sum> at_risk = sums_at_risk<Sum>(problem, shift);

  double loss = 0;
  double event_weight = 0;
  std::vector<Sum> reciprocals(problem.groups);  // of a group; without late entries of all groups from it on
  std::vector<Sum> own_reciprocals(problem.groups);
  for (int32_t group = problem.groups - 1; group >= 0; --group) {
    Sum sum;
    if (!truncated && group + 1 < problem.groups && !problem.begins_stratum(group + 1)) sum = reciprocals[group + 1];
    const int32_t events = problem.plan.events()[group];
    if (events > 0) {
      const Sum& own_at_risk = at_risk[group];
      const TiedEvents<Sum> tied = tied_events<Sum>(problem, group, shift, own_at_risk.origin());
      loss += tied.distance;
      event_weight += tied.weight;
      if (tied.weight > 0) {
        loss += add_tied_events(events, tied.weight, problem.efron, own_at_risk, tied.sum, sum, own_reciprocals[group]);
      }
    }
    reciprocals[group] = sum;
  }
  const double divisor = mean && event_weight > 0 ? event_weight : 1;
  if (gradient == nullptr) return loss / divisor;

  const IntervalSums<Sum> interval_sums(truncated ? reciprocals : std::vector<Sum>(1), one_by_one);
  const int32_t* last = problem.plan.last();
  for (int32_t group = 0; group < problem.groups; ++group) {
    for (int64_t position = problem.begin(group); position < problem.end(group); ++position) {
      const double exponent = problem.log_hazard_at(position) - shift;
      double value = 0;
      if (truncated) {
        interval_sums.visit(group, last[position], [&](const Sum& sum) { value += sum.times_exp(exponent); });
      } else {
        value = reciprocals[group].times_exp(exponent);
      }
      if (problem.is_event(position)) value -= own_reciprocals[group].times_exp(exponent) + 1;
      const double weight = problem.weight_at(position);
      gradient[problem.row(position)] = weight == 0 ? Real(0) : static_cast<Real>(weight * value / divisor);
    }
  }
  return loss / divisor;
}

}  // namespace survcore
