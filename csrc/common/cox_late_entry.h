// The partial likelihood with late entries, for log-hazards that lie close together: relative hazards under one shift;
// the sum over every risk set from the intervals of groups at whose events the rows are at risk; the terms of each
// group; and the sums of their reciprocals over the same intervals, which make the gradients.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "common/cox_chunks.h"
#include "common/cox_problem.h"
#include "common/interval_sums.h"
#include "common/parallel.h"
#include "core/cox.h"

namespace survcore {

constexpr int64_t rows_ahead = 16;

template <class Real>
double late_entry_loss(const CoxProblem<Real>& problem, double shift, bool mean, Real* gradient) {
  const int32_t* last = problem.plan.last();
  Buffers<double> buffers{Scratch<double>(problem.rows), Scratch<double>(0), Scratch<double>(0)};
  const double* relative_hazards = buffers.relative_hazards.data();
  ChunkedRows<Real> rows(problem);
  rows.for_each([&](auto width, int64_t chunk, int32_t first, int32_t end) {
    hazards_chunk(width, problem, shift, first, end, buffers, rows.sums[chunk]);
  });
  const double divisor = mean ? rows.divisor() : 1;

  const auto run = [](int64_t blocks, int64_t cells, const auto& body) {
    for_each_chunk(blocks, 1, cells, [&](int64_t block, int64_t, int64_t) { body(block); });
  };
  // Two parts at most, whatever the threads.
  const int64_t part_rows = problem.rows < (1 << 17) ? problem.rows : (problem.rows + 1) / 2;
  CoveringSums<PlainSum> covering(problem.groups, part_rows < problem.rows ? 2 : 1);
  for_each_chunk(problem.rows, part_rows, 1, [&](int64_t number, int64_t first, int64_t end) {
    const auto part = static_cast<int>(number);
    covering.begin(part);
    int32_t group = problem.group_of(first);
    for (int64_t position = first; position < end; ++position) {
      if (position + rows_ahead < end) covering.expect(part, last[position + rows_ahead]);
      group += position == problem.end(group);
      const double hazard = relative_hazards[position];
      covering.cover(part, group, last[position], [=](PlainSum& sum) { sum.sum += hazard; });
    }
  });
  const std::vector<PlainSum> at_risk = std::move(covering).totals(run);

  std::vector<PlainSum> reciprocals(problem.groups);
  std::vector<PlainSum> own_reciprocals(problem.groups);
  rows.for_each([&](auto, int64_t chunk, int32_t first, int32_t end) {
    for (int32_t group = first; group < end; ++group) {
      const int32_t events = problem.plan.events()[group];
      PlainSum tied;
      double weight = 0;
      for (int64_t position = problem.end(group) - events; position < problem.end(group); ++position) {
        tied.sum += relative_hazards[position];
        weight += problem.weight_at(position);
      }
      if (weight == 0) continue;
      rows.sums[chunk].loss += add_tied_events(events, weight, problem.efron, at_risk[group], tied, reciprocals[group],
                                               own_reciprocals[group]);
    }
  });
  const double loss = rows.loss() / divisor;
  const double scale = 1 / divisor;
  if (gradient == nullptr) return loss;

  const IntervalSums<PlainSum> sums(std::move(reciprocals), run);
  rows.for_each([&](auto, int64_t, int32_t first, int32_t end) {
    for (int32_t group = first; group < end; ++group) {
      for (int64_t position = problem.begin(group); position < problem.end(group); ++position) {
        double at_events = 0;
        sums.visit(group, last[position], [&](const PlainSum& sum) { at_events += sum.sum; });
        const double event = problem.is_event(position);  // as a number: branches on it are as good as random
        const double value = relative_hazards[position] * (at_events - event * own_reciprocals[group].sum) -
                             event * problem.weight_at(position);
        gradient[problem.row(position)] = static_cast<Real>(scale * value);
      }
    }
  });
  return loss;
}

}  // namespace survcore
