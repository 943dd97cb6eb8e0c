// CPU kernel of cox_baseline_hazard: one sum over the groups of each stratum from the earliest on.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "common/cox_arguments.h"
#include "common/cox_serial.h"
#include "common/tensors.h"
#include "core/cox.h"

namespace survcore {
namespace {

// A sum of exponentials, and its logarithm; an infinite term, of an event whose whole risk set has no hazard, stays.
struct LogSum {
  PairSum sum;

  void add(double log_term) {
    if (sum.largest < std::numeric_limits<double>::infinity()) sum.add_exp(1, log_term);
  }
  double log() const { return sum.origin() + sum.log_rest(); }
};

template <class Real>
std::tuple<Tensor, Tensor, Tensor> baseline_hazard(const CoxArguments& arguments) {
  const CoxProblem<Real> problem = arguments.problem<Real>();
  constexpr Real infinity = std::numeric_limits<Real>::infinity();
  STD_TORCH_CHECK(
      problem.weights == nullptr || std::all_of(problem.weights, problem.weights + problem.rows,
                                                [=](Real weight) { return weight >= 0 && weight < infinity; }),
      "weights must be finite and at least 0");
  Tensor log_step = empty_on(arguments.log_hazard, {problem.rows}, arguments.type);
  Tensor log_hazard = empty_on(arguments.log_hazard, {problem.rows}, arguments.type);
  Tensor log_variance = empty_on(arguments.log_hazard, {problem.rows}, arguments.type);
  Real* steps = static_cast<Real*>(log_step.mutable_data_ptr());
  Real* hazards = static_cast<Real*>(log_hazard.mutable_data_ptr());
  Real* variances = static_cast<Real*>(log_variance.mutable_data_ptr());
  const bool known = std::all_of(problem.log_hazard, problem.log_hazard + problem.rows, [=](Real value) {
    return value < infinity;  // infinite relative hazards cannot be compared, nor NaN
  });
  const Real unused = known ? -infinity : std::numeric_limits<Real>::quiet_NaN();
  std::fill_n(steps, problem.rows, unused);
  std::fill_n(hazards, problem.rows, unused);
  std::fill_n(variances, problem.rows, unused);
  if (!known) return {log_step, log_hazard, log_variance};

  const std::vector<PairSum> at_risk = sums_at_risk<PairSum>(problem, 0);
  LogSum hazard;
  LogSum variance;
  for (int32_t group = problem.groups - 1; group >= 0; --group) {
    if (group + 1 < problem.groups && problem.begins_stratum(group + 1)) hazard = variance = LogSum();
    const TiedEvents<PairSum> tied = tied_events<PairSum>(problem, group, 0, 0);
    if (tied.weight > 0) {
      const BaselineTerms terms =
          baseline_terms(problem.plan.events()[group], tied.weight, problem.efron, at_risk[group], tied.sum);
      steps[group] = static_cast<Real>(terms.log_hazard);
      hazard.add(terms.log_hazard);
      variance.add(terms.log_variance);
    }
    hazards[group] = static_cast<Real>(hazard.log());
    variances[group] = static_cast<Real>(variance.log());
  }
  return {log_step, log_hazard, log_variance};
}

std::tuple<Tensor, Tensor, Tensor> cox_baseline_hazard(const Tensor& log_hazard, const Tensor& risk_sets,
                                                       const Tensor& weights, std::string ties) {
  const CoxArguments arguments(log_hazard, risk_sets, weights, ties);
  return arguments.type == ScalarType::Double ? baseline_hazard<double>(arguments) : baseline_hazard<float>(arguments);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) { m.impl("cox_baseline_hazard", TORCH_BOX(&cox_baseline_hazard)); }

}  // namespace survcore
