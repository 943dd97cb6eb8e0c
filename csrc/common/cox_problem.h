// What one evaluation of the partial likelihood reads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/cox_plan.h"

namespace survcore {

template <class Real>
struct CoxProblem {
  const Real* log_hazard;
  const Real* weights;  // or null: all 1
  CoxPlan plan;
  int64_t rows;
  int32_t groups;
  int32_t flags;
  bool efron;

  bool has(CoxFlag flag) const { return flags & flag; }
  int64_t begin(int32_t group) const { return plan.start()[group] >> 1; }
  int64_t end(int32_t group) const { return plan.start()[group + 1] >> 1; }
  bool begins_stratum(int32_t group) const { return plan.start()[group] & 1; }
  int32_t group_of(int64_t position) const {
    const int32_t* start = plan.start();
    return static_cast<int32_t>(std::upper_bound(start, start + groups, 2 * position + 1) - start) - 1;
  }
  int32_t row(int64_t position) const { return plan.order()[position] >> 1; }
  bool is_event(int64_t position) const { return plan.order()[position] & 1; }
  double weight(int64_t row) const { return weights ? static_cast<double>(weights[row]) : 1.0; }
  double weight_at(int64_t position) const { return weight(row(position)); }
  double log_hazard_at(int64_t position) const { return static_cast<double>(log_hazard[row(position)]); }
};

}  // namespace survcore
