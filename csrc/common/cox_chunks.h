// The partial likelihood in chunks of groups, in parallel, for log-hazards that lie close together and rows that enter
// at the beginning: relative hazards under one shift and their sum; then, with what the chunks before it hand over, the
// sum over every risk set, the reciprocals at the ends of the groups and their sums in the opposite order; then, with
// what the chunks after it hand over, the gradients.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/cox_problem.h"
#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "core/elementary.h"

namespace survcore {

constexpr int64_t chunk_rows = 8192;

// What the stages hand to each other, by position. Work is float where that is enough.
template <class Work>
struct Buffers {
  Scratch<Work> relative_hazards;  // times the weight
  Scratch<Work> reciprocals;       // at the end of a group at first, then the sum of those from here on
  Scratch<Work> own_reciprocals;   // [groups] Efron's share of an event of the group; empty without ties
};

struct ChunkSums {
  double at_risk = 0;      // of the rows since the last beginning of a stratum
  double reciprocals = 0;  // of the groups up to the first end of a stratum
  bool begins = false;     // whether a stratum begins in it
  double loss = 0;
  double event_weight = 0;
};

// Sums are carried along four parts of a block beside each other: one alone waits for every addition.
constexpr int64_t part_rows = 128;
constexpr int64_t block_rows = 4 * part_rows;

// running[i] becomes base + values[0] + .. + values[i]; returns the last. At most a block.
template <class Work>
SURVCORE_INLINE double running_sums(const Work* values, int64_t count, double base, double* running) {
  if (count < block_rows) {
    for (int64_t i = 0; i < count; ++i) running[i] = base += static_cast<double>(values[i]);
    return base;
  }
  double sum[4] = {};
  for (int64_t i = 0; i < part_rows; ++i) {
    for (int part = 0; part < 4; ++part) {
      sum[part] += static_cast<double>(values[part * part_rows + i]);
      running[part * part_rows + i] = sum[part];
    }
  }
  for (int part = 0; part < 4; ++part) {
    for (int64_t i = 0; i < part_rows; ++i) running[part * part_rows + i] += base;
    base += sum[part];
  }
  return base;
}

// values[i] becomes base + values[count - 1] + .. + values[i]; returns the first. At most a block.
template <class Work>
SURVCORE_INLINE double running_sums_from_end(Work* values, int64_t count, double base) {
  if (count < block_rows) {
    for (int64_t i = count - 1; i >= 0; --i) values[i] = static_cast<Work>(base += static_cast<double>(values[i]));
    return base;
  }
  alignas(64) double running[block_rows];
  double sum[4] = {};
  for (int64_t i = part_rows - 1; i >= 0; --i) {
    for (int part = 0; part < 4; ++part) {
      sum[part] += static_cast<double>(values[part * part_rows + i]);
      running[part * part_rows + i] = sum[part];
    }
  }
  for (int part = 3; part >= 0; --part) {
    for (int64_t i = part * part_rows; i < (part + 1) * part_rows; ++i) {
      values[i] = static_cast<Work>(running[i] + base);
    }
    base += sum[part];
  }
  return base;
}

// The groups from `first` on that belong to one stratum: the end of them.
template <class Real>
SURVCORE_INLINE int32_t end_of_stratum(const CoxProblem<Real>& problem, int32_t first, int32_t last) {
  if (!problem.has(cox_stratified)) return last;
  int32_t end = first + 1;
  while (end < last && !problem.begins_stratum(end)) ++end;
  return end;
}

// Relative hazards; what the events' own log-hazards add to the loss, and the events' weight.
template <class Work, class Real>
SURVCORE_INLINE void fill_relative_hazards(const CoxProblem<Real>& problem, double shift, int64_t first, int64_t end,
                                           Work* relative_hazards, ChunkSums& sums) {
  const int32_t* order = problem.plan.order();
  const Real* values = problem.log_hazard;
  double events = 0;
  double event_weight = 0;
  const Work shift_in_work = static_cast<Work>(shift);
  if (problem.weights) {
    const Real* weights = problem.weights;
#pragma omp simd reduction(+ : events, event_weight)
    for (int64_t position = first; position < end; ++position) {
      const int32_t row = order[position] >> 1;
      const Work exponent = static_cast<Work>(values[row]) - shift_in_work;
      const Work weight = static_cast<Work>(weights[row]);
      relative_hazards[position] = weight * exp_nonpositive(exponent);
      events += (order[position] & 1) ? static_cast<double>(weight * exponent) : 0.0;
      event_weight += (order[position] & 1) ? static_cast<double>(weight) : 0.0;
    }
  } else if (problem.has(cox_in_order)) {
#pragma omp simd reduction(+ : events)
    for (int64_t position = first; position < end; ++position) {
      const Work exponent = static_cast<Work>(values[position]) - shift_in_work;
      relative_hazards[position] = exp_nonpositive(exponent);
      events += (order[position] & 1) ? static_cast<double>(exponent) : 0.0;
    }
  } else {
#pragma omp simd reduction(+ : events)
    for (int64_t position = first; position < end; ++position) {
      const Work exponent = static_cast<Work>(values[order[position] >> 1]) - shift_in_work;
      relative_hazards[position] = exp_nonpositive(exponent);
      events += (order[position] & 1) ? static_cast<double>(exponent) : 0.0;
    }
  }
  sums.loss = -events;
  sums.event_weight = event_weight;
}

// The sum over the rows since the last beginning of a stratum.
template <class Work, class Real>
SURVCORE_INLINE void sum_chunk(const CoxProblem<Real>& problem, int32_t first, int32_t last,
                               const Work* relative_hazards, ChunkSums& sums) {
  int32_t begin = first;
  if (problem.has(cox_stratified)) {
    begin = last - 1;
    while (begin > first && !problem.begins_stratum(begin)) --begin;
  }
  const int64_t end = problem.begin(last);
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t position = problem.begin(begin); position < end; ++position) {
    sum += static_cast<double>(relative_hazards[position]);
  }
  sums.at_risk = sum;
  sums.begins = problem.begins_stratum(begin);
}

// The denominators of the tied events of a group, given the sum over its risk set. Returns what they add to the loss.
template <class Work, class Real>
SURVCORE_INLINE double add_ties(const CoxProblem<Real>& problem, int32_t group, double sum, Buffers<Work>& buffers) {
  const int32_t count = problem.plan.events()[group];
  const int64_t end = problem.end(group);
  const Work* relative_hazards = buffers.relative_hazards.data();
  double weight = count;
  if (problem.weights) {
    weight = 0;
    for (int64_t position = end - count; position < end; ++position) {
      weight += problem.weight_at(position);
    }
  }
  if (!(weight > 0)) return 0;
  if (!problem.efron) {
    buffers.reciprocals[end - 1] = static_cast<Work>(weight / sum);
    return weight * log_positive(sum);
  }
  double tied = 0;
#pragma omp simd reduction(+ : tied)
  for (int64_t position = end - count; position < end; ++position) {
    tied += static_cast<double>(relative_hazards[position]);
  }
  const double step = tied / count;
  double plain = 0;
  double own = 0;
#pragma omp simd reduction(+ : plain, own)
  for (int32_t l = 0; l < count; ++l) {
    const double reciprocal = 1.0 / (sum - l * step);
    plain += reciprocal;
    own += l * reciprocal;
  }
  const double mean_weight = weight / count;
  buffers.reciprocals[end - 1] = static_cast<Work>(mean_weight * plain);
  buffers.own_reciprocals[group] = static_cast<Work>(mean_weight * own / count);
  return mean_weight * sum_of_logs(count, [=](int64_t l) { return sum - static_cast<double>(l) * step; });
}

// Denominators and their reciprocals at the ends of the groups of a stratum, block by block. `carried` is the sum over
// the rows before.
template <class Work, class Real>
SURVCORE_INLINE void sum_events(const CoxProblem<Real>& problem, int32_t first, int32_t last, double carried,
                                Buffers<Work>& buffers, double& loss) {
  const int32_t* order = problem.plan.order();
  const int32_t* events = problem.plan.events();
  const bool tied = problem.has(cox_tied);
  alignas(64) double at_risk[block_rows];
  alignas(64) Work weights[block_rows];  // of events that have their time for themselves, else 0
  int32_t group = first;
  const int64_t end = problem.begin(last);
  for (int64_t block = problem.begin(first); block < end; block += block_rows) {
    const int64_t count = std::min(block_rows, end - block);
    Work* reciprocals = buffers.reciprocals.data() + block;
    carried = running_sums(buffers.relative_hazards.data() + block, count, carried, at_risk);
    for (int64_t i = 0; i < count; ++i) weights[i] = static_cast<Work>(order[block + i] & 1);
    if (problem.weights) {
      for (int64_t i = 0; i < count; ++i) weights[i] *= static_cast<Work>(problem.weights[order[block + i] >> 1]);
    }
    if (tied) {
      for (int32_t g = group; g < last && problem.end(g) - events[g] < block + count; ++g) {
        if (events[g] < 2) continue;
        const int64_t begins = std::max(problem.end(g) - events[g], block);
        std::fill(weights + (begins - block), weights + (std::min(problem.end(g), block + count) - block), Work(0));
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const Work sum = weights[i] > 0 ? static_cast<Work>(at_risk[i]) : Work(1);
      reciprocals[i] = weights[i] / sum;
    }
    if (problem.weights) {
#pragma omp simd reduction(+ : loss)
      for (int64_t i = 0; i < count; ++i) {
        loss += static_cast<double>(weights[i]) * log_positive(weights[i] > 0 ? at_risk[i] : 1.0);
      }
    } else {
      loss += sum_of_logs(count, [&](int64_t i) { return weights[i] > 0 ? at_risk[i] : 1.0; });
    }
    if (tied) {
      for (; group < last && problem.end(group) <= block + count; ++group) {
        if (!buffers.own_reciprocals.empty()) buffers.own_reciprocals[group] = 0;
        if (events[group] > 1) loss += add_ties(problem, group, at_risk[problem.end(group) - 1 - block], buffers);
      }
    }
  }
}

// Sums of the reciprocals from the end of the groups of a stratum on; returns the whole.
template <class Work, class Real>
SURVCORE_INLINE double sum_reciprocals(const CoxProblem<Real>& problem, int32_t first, int32_t last,
                                       Buffers<Work>& buffers) {
  const int64_t begin = problem.begin(first);
  const int32_t* events = problem.plan.events();
  Work* reciprocals = buffers.reciprocals.data();
  double sum = 0;
  for (int64_t end = problem.begin(last), block; end > begin; end = block) {
    block = std::max(begin, end - block_rows);
    sum = running_sums_from_end(reciprocals + block, end - block, sum);
  }
  if (!buffers.own_reciprocals.empty()) {
    for (int32_t group = first; group < last; ++group) {
      const Work own = buffers.own_reciprocals[group];
      if (own == 0) continue;
      for (int64_t i = problem.end(group) - events[group]; i < problem.end(group); ++i) reciprocals[i] -= own;
    }
  }
  return sum;
}

// Gradients of the rows of a stratum. `carried` is the sum of the reciprocals of the groups after them.
template <class Work, class Real>
SURVCORE_INLINE void write_gradients(const CoxProblem<Real>& problem, int64_t begin, int64_t end, double carried,
                                     double scale, Buffers<Work>& buffers, Real* gradient) {
  const int32_t* order = problem.plan.order();
  const Work* reciprocals = buffers.reciprocals.data();
  const Work* relative_hazards = buffers.relative_hazards.data();
  const Work later = static_cast<Work>(carried);
  const Work scaled = static_cast<Work>(scale);
  if (problem.weights) {
    for (int64_t position = begin; position < end; ++position) {
      const int32_t row = order[position] >> 1;
      const Work event = static_cast<Work>(order[position] & 1) * static_cast<Work>(problem.weights[row]);
      const Work value = relative_hazards[position] * (reciprocals[position] + later) - event;
      gradient[row] = static_cast<Real>(scaled * value);
    }
  } else if (problem.has(cox_in_order)) {
#pragma omp simd
    for (int64_t position = begin; position < end; ++position) {
      const Work event = static_cast<Work>(order[position] & 1);
      const Work value = relative_hazards[position] * (reciprocals[position] + later) - event;
      gradient[position] = static_cast<Real>(scaled * value);
    }
  } else {
    for (int64_t position = begin; position < end; ++position) {
      const Work event = static_cast<Work>(order[position] & 1);
      const Work value = relative_hazards[position] * (reciprocals[position] + later) - event;
      gradient[order[position] >> 1] = static_cast<Real>(scaled * value);
    }
  }
}

template <class Work, class Real>
SURVCORE_INLINE void events_of_chunk(const CoxProblem<Real>& problem, int32_t first, int32_t last, double carried,
                                     bool with_gradient, Buffers<Work>& buffers, ChunkSums& sums) {
  for (int32_t begin = first, end; begin < last; begin = end) {
    end = end_of_stratum(problem, begin, last);
    sum_events(problem, begin, end, problem.begins_stratum(begin) ? 0.0 : carried, buffers, sums.loss);
    const double reciprocals = with_gradient ? sum_reciprocals(problem, begin, end, buffers) : 0.0;
    if (begin == first) sums.reciprocals = reciprocals;
  }
}

template <class Work, class Real>
SURVCORE_INLINE void gradients_of_chunk(const CoxProblem<Real>& problem, int32_t first, int32_t last, double carried,
                                        double scale, Buffers<Work>& buffers, Real* gradient) {
  for (int32_t begin = first, end; begin < last; begin = end) {
    end = end_of_stratum(problem, begin, last);
    write_gradients(problem, problem.begin(begin), problem.begin(end), end == last ? carried : 0.0, scale, buffers,
                    gradient);
  }
}

// One definition of each stage for each type and instruction set.
#define SURVCORE_COX_KERNELS(Work, Real, bytes)                                                                        \
  SURVCORE_TARGET_##bytes inline void hazards_chunk(VectorWidth<bytes>, const CoxProblem<Real>& problem, double shift, \
                                                    int32_t first, int32_t last, Buffers<Work>& buffers,               \
                                                    ChunkSums& sums) {                                                 \
    Work* relative_hazards = buffers.relative_hazards.data();                                                          \
    fill_relative_hazards(problem, shift, problem.begin(first), problem.begin(last), relative_hazards, sums);          \
    sum_chunk(problem, first, last, relative_hazards, sums);                                                           \
  }                                                                                                                    \
  SURVCORE_TARGET_##bytes inline void events_chunk(VectorWidth<bytes>, const CoxProblem<Real>& problem, int32_t first, \
                                                   int32_t last, double carried, bool with_gradient,                   \
                                                   Buffers<Work>& buffers, ChunkSums& sums) {                          \
    events_of_chunk(problem, first, last, carried, with_gradient, buffers, sums);                                      \
  }                                                                                                                    \
  SURVCORE_TARGET_##bytes inline void gradient_chunk(VectorWidth<bytes>, const CoxProblem<Real>& problem,              \
                                                     int32_t first, int32_t last, double carried, double scale,        \
                                                     Buffers<Work>& buffers, Real* gradient) {                         \
    gradients_of_chunk(problem, first, last, carried, scale, buffers, gradient);                                       \
  }
#define SURVCORE_COX_KERNELS_OF(Work, Real) \
  SURVCORE_COX_KERNELS(Work, Real, 64)      \
  SURVCORE_COX_KERNELS(Work, Real, 32)      \
  SURVCORE_COX_KERNELS(Work, Real, 16)
SURVCORE_COX_KERNELS_OF(float, float)
SURVCORE_COX_KERNELS_OF(double, float)
SURVCORE_COX_KERNELS_OF(double, double)
#undef SURVCORE_COX_KERNELS_OF
#undef SURVCORE_COX_KERNELS

// The rows in chunks of whole groups, about chunk_rows positions each.
template <class Real>
struct ChunkedRows {
  const CoxProblem<Real>& problem;
  std::vector<int32_t> bounds;  // the first group of each, and the number of groups
  std::vector<ChunkSums> sums;

  explicit ChunkedRows(const CoxProblem<Real>& rows_of) : problem(rows_of) {
    const int32_t* start = problem.plan.start();
    for (int64_t position = 0; position < problem.rows; position += chunk_rows) {
      const auto first = std::lower_bound(start, start + problem.groups, static_cast<int32_t>(2 * position));
      const auto group = static_cast<int32_t>(first - start);
      if (group < problem.groups && (bounds.empty() || bounds.back() != group)) bounds.push_back(group);
    }
    sums.resize(bounds.size());
    bounds.push_back(problem.groups);
  }

  int64_t count() const { return static_cast<int64_t>(sums.size()); }

  // Calls body(width, chunk, first group, end) for all chunks, in parallel.
  template <class Body>
  void for_each(const Body& body) const {
    for_each_chunk(count(), 1, chunk_rows, [&](int64_t chunk, int64_t, int64_t) {
      with_vector_width([&](auto width) { body(width, chunk, bounds[chunk], bounds[chunk + 1]); });
    });
  }

  double loss() const {
    double loss = 0;
    for (const ChunkSums& part : sums) loss += part.loss;
    return loss;
  }

  // The weight of all events, 1 if they have none.
  double divisor() const {
    double weight = 0;
    for (const ChunkSums& part : sums) weight += part.event_weight;
    if (problem.weights == nullptr) weight = problem.plan.header()[cox_events];
    return weight == 0 ? 1 : weight;
  }
};

template <class Work, class Real>
double chunked_loss(const CoxProblem<Real>& problem, double shift, bool mean, Real* gradient) {
  const bool tied = problem.efron && problem.has(cox_tied);
  Buffers<Work> buffers{Scratch<Work>(problem.rows), Scratch<Work>(problem.rows),
                        Scratch<Work>(tied ? problem.groups : 0)};
  ChunkedRows<Real> rows(problem);
  std::vector<ChunkSums>& sums = rows.sums;
  rows.for_each([&](auto width, int64_t chunk, int32_t first, int32_t last) {
    hazards_chunk(width, problem, shift, first, last, buffers, sums[chunk]);
  });
  const double divisor = mean ? rows.divisor() : 1;
  std::vector<double> carried(sums.size());
  double sum = 0;
  for (int64_t chunk = 0; chunk < rows.count(); ++chunk) {
    carried[chunk] = sum;
    sum = sums[chunk].begins ? sums[chunk].at_risk : sum + sums[chunk].at_risk;
  }
  rows.for_each([&](auto width, int64_t chunk, int32_t first, int32_t last) {
    events_chunk(width, problem, first, last, carried[chunk], gradient != nullptr, buffers, sums[chunk]);
  });
  const double loss = rows.loss() / divisor;
  if (gradient == nullptr) return loss;
  sum = 0;
  for (int64_t chunk = rows.count() - 1; chunk >= 0; --chunk) {
    carried[chunk] = sum;
    const bool starts_stratum = problem.begins_stratum(rows.bounds[chunk]);
    sum = starts_stratum ? 0 : (sums[chunk].begins ? 0 : sum) + sums[chunk].reciprocals;
  }
  rows.for_each([&](auto width, int64_t chunk, int32_t first, int32_t last) {
    gradient_chunk(width, problem, first, last, carried[chunk], 1 / divisor, buffers, gradient);
  });
  return loss;
}

}  // namespace survcore
