// The partial likelihood one row after the other, through the sums of core/cox.h: for log-hazards of any size and, with
// late entries, through a segment tree over the groups. A row is added to the few nodes that make up its time at risk,
// so that nothing is ever subtracted.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/cox_problem.h"
#include "core/cox.h"

namespace survcore {

// Sums over intervals of groups that only ever add.
template <class Sum>
class SegmentTree {
 public:
  explicit SegmentTree(int32_t groups)
      : size_(std::bit_ceil(static_cast<uint32_t>(std::max(1, groups)))), nodes_(2 * size_) {}

  Sum& leaf(int32_t group) { return nodes_[size_ + group]; }

  template <class Visit>
  void for_each_node(int32_t first, int32_t last, const Visit& visit) {
    for (std::size_t low = size_ + first, high = size_ + last + 1; low < high; low >>= 1, high >>= 1) {
      if (low & 1) visit(nodes_[low++]);
      if (high & 1) visit(nodes_[--high]);
    }
  }

  // Every leaf becomes the sum over the nodes above it.
  void push_down() {
    for (std::size_t node = 1; node < size_; ++node) {
      nodes_[2 * node].add(nodes_[node]);
      nodes_[2 * node + 1].add(nodes_[node]);
    }
  }

  // Every node becomes the sum over the leaves below it.
  void pull_up() {
    for (std::size_t node = size_ - 1; node > 0; --node) {
      nodes_[node] = nodes_[2 * node];
      nodes_[node].add(nodes_[2 * node + 1]);
    }
  }

 private:
  std::size_t size_;
  std::vector<Sum> nodes_;
};

// The sum over the risk set of each group. `shift` is subtracted from all log-hazards.
template <class Sum, class Real>
std::vector<Sum> sums_at_risk(const CoxProblem<Real>& problem, double shift) {
  std::vector<Sum> sums(problem.groups);
  const auto for_each_row = [&](int32_t group, const auto& visit) {
    for (int64_t position = problem.begin(group); position < problem.end(group); ++position) {
      visit(position, problem.weight_at(position), problem.log_hazard_at(position) - shift);
    }
  };
  if (problem.has(cox_truncated)) {
    const int32_t* last = problem.plan.last();
    SegmentTree<Sum> tree(problem.groups);
    for (int32_t group = 0; group < problem.groups; ++group) {
      for_each_row(group, [&](int64_t position, double weight, double exponent) {
        tree.for_each_node(group, last[position], [&](Sum& node) { node.add_exp(weight, exponent); });
      });
    }
    tree.push_down();
    for (int32_t group = 0; group < problem.groups; ++group) sums[group] = tree.leaf(group);
    return sums;
  }
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
double serial_loss(const CoxProblem<Real>& problem, double shift, Real* gradient, double scale) {
  const bool truncated = problem.has(cox_truncated);
  const std::vector<Sum> at_risk = sums_at_risk<Sum>(problem, shift);

  double loss = 0;
  SegmentTree<Sum> reciprocal_tree(truncated ? problem.groups : 0);
  std::vector<Sum> reciprocals(truncated ? 0 : problem.groups);
  std::vector<Sum> own_reciprocals(problem.groups);
  for (int32_t group = problem.groups - 1; group >= 0; --group) {
    Sum sum;
    if (!truncated && group + 1 < problem.groups && !problem.begins_stratum(group + 1)) sum = reciprocals[group + 1];
    const int32_t events = problem.plan.events()[group];
    if (events > 0) {
      const Sum& own_at_risk = at_risk[group];
      const TiedEvents<Sum> tied = tied_events<Sum>(problem, group, shift, own_at_risk.origin());
      loss += tied.distance;
      if (tied.weight > 0) {
        loss += add_tied_events(events, tied.weight, problem.efron, own_at_risk, tied.sum, sum, own_reciprocals[group]);
      }
    }
    (truncated ? reciprocal_tree.leaf(group) : reciprocals[group]) = sum;
  }
  if (gradient == nullptr) return loss;

  if (truncated) reciprocal_tree.pull_up();
  const int32_t* last = problem.plan.last();
  for (int32_t group = 0; group < problem.groups; ++group) {
    for (int64_t position = problem.begin(group); position < problem.end(group); ++position) {
      const double exponent = problem.log_hazard_at(position) - shift;
      double value = 0;
      if (truncated) {
        reciprocal_tree.for_each_node(group, last[position],
                                      [&](const Sum& node) { value += node.times_exp(exponent); });
      } else {
        value = reciprocals[group].times_exp(exponent);
      }
      if (problem.is_event(position)) value -= own_reciprocals[group].times_exp(exponent) + 1;
      const double weight = problem.weight_at(position);
      gradient[problem.row(position)] = weight == 0 ? Real(0) : static_cast<Real>(weight * value * scale);
    }
  }
  return loss;
}

}  // namespace survcore
