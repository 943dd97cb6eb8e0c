// The arguments that ops on risk sets share, checked.
#pragma once

#include <cstdint>
#include <string>

#include "common/cox_problem.h"
#include "common/tensors.h"

namespace survcore {

// Contiguous tensors of one type, which a CoxProblem points into.
struct CoxArguments {
  ScalarType type;
  Tensor log_hazard;
  Tensor plan;
  Tensor weights;
  bool efron;

  CoxArguments(const Tensor& given_log_hazard, const Tensor& risk_sets, const Tensor& given_weights,
               const std::string& ties)
      : type(compute_type(given_log_hazard)),
        log_hazard(contiguous_as(given_log_hazard, type)),
        plan(contiguous_as(risk_sets, ScalarType::Int)),
        weights(contiguous_as(given_weights, type)),
        efron(ties == "efron") {
    const int64_t rows = log_hazard.numel();
    STD_TORCH_CHECK(efron || ties == "breslow", "ties must be 'efron' or 'breslow', got '", ties, "'");
    STD_TORCH_CHECK(weights.numel() == rows || weights.numel() == 0,
                    "weights must have one entry per row of log_hazard, or none");
    STD_TORCH_CHECK(plan.numel() >= CoxSections<int32_t>::size(rows, false),
                    "risk_sets are of fewer rows than log_hazard");
    const int32_t* header = sections().header();
    STD_TORCH_CHECK(header[cox_rows] == rows, "risk_sets are of ", header[cox_rows], " rows, log_hazard has ", rows);
    STD_TORCH_CHECK(header[cox_error] == 0, "risk_sets were built from invalid times, events or entries");
    STD_TORCH_CHECK(plan.numel() >= CoxSections<int32_t>::size(rows, header[cox_flags] & cox_truncated),
                    "risk_sets are cut short");
  }

  template <class Real>
  CoxProblem<Real> problem() const {
    const CoxPlan read = sections();
    return {static_cast<const Real*>(log_hazard.const_data_ptr()),
            weights.numel() ? static_cast<const Real*>(weights.const_data_ptr()) : nullptr,
            read,
            log_hazard.numel(),
            read.header()[cox_groups],
            read.header()[cox_flags],
            efron};
  }

 private:
  CoxPlan sections() const { return {static_cast<const int32_t*>(plan.const_data_ptr()), log_hazard.numel()}; }
};

}  // namespace survcore
