// CPU kernels of cox_ph_loss.
//
// Where log-hazards lie close together and nobody enters late, chunks of groups are worked on in parallel: relative
// hazards under one shift and their sum; then, with what the chunks before it hand over, the sum over every risk set,
// the reciprocals at the ends of the groups and their sums in the opposite order; then, with what the chunks after it
// hand over, the gradients. Anything else goes one row after the other, through the sums of core/cox.h and, with late
// entries, a segment tree over the groups: a row is added to the few nodes that make up its time at risk, so that
// nothing is ever subtracted.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/cox_plan.h"
#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "common/tensors.h"
#include "core/cox.h"
#include "core/elementary.h"

namespace survcore {
namespace {

constexpr int64_t chunk_rows = 8192;

template <class Real>
struct Problem {
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
  int32_t row(int64_t position) const { return plan.order()[position] >> 1; }
  bool is_event(int64_t position) const { return plan.order()[position] & 1; }
  double weight(int64_t row) const { return weights ? static_cast<double>(weights[row]) : 1.0; }
};

// ---- one row after the other

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

// The loss; gradients of all rows are written where `gradient` is not null. `shift` is subtracted from all log-hazards.
template <class Sum, class Real>
double serial_loss(const Problem<Real>& problem, double shift, Real* gradient, double scale) {
  const int32_t* last = problem.plan.last();
  const bool truncated = problem.has(cox_truncated);
  const auto exponent_of = [&](int64_t position) {
    return static_cast<double>(problem.log_hazard[problem.row(position)]) - shift;
  };
  const auto weight_of = [&](int64_t position) { return problem.weight(problem.row(position)); };

  std::vector<Sum> at_risk(truncated ? 0 : problem.groups);
  SegmentTree<Sum> tree(truncated ? problem.groups : 0);
  if (truncated) {
    for (int32_t group = 0; group < problem.groups; ++group) {
      for (int64_t position = problem.begin(group); position < problem.end(group); ++position) {
        const double exponent = exponent_of(position);
        const double weight = weight_of(position);
        tree.for_each_node(group, last[position], [&](Sum& node) { node.add_exp(weight, exponent); });
      }
    }
    tree.push_down();
  } else {
    Sum sum;
    for (int32_t group = 0; group < problem.groups; ++group) {
      if (problem.begins_stratum(group)) sum = Sum();
      for (int64_t position = problem.begin(group); position < problem.end(group); ++position) {
        sum.add_exp(weight_of(position), exponent_of(position));
      }
      at_risk[group] = sum;
    }
  }

  double loss = 0;
  SegmentTree<Sum> reciprocal_tree(truncated ? problem.groups : 0);
  std::vector<Sum> reciprocals(truncated ? 0 : problem.groups);
  std::vector<Sum> own_reciprocals(problem.groups);
  for (int32_t group = problem.groups - 1; group >= 0; --group) {
    Sum sum;
    if (!truncated && group + 1 < problem.groups && !problem.begins_stratum(group + 1)) sum = reciprocals[group + 1];
    const int32_t events = problem.plan.events()[group];
    if (events > 0) {
      const Sum& own_at_risk = truncated ? tree.leaf(group) : at_risk[group];
      Sum tied;
      double weight = 0;
      for (int64_t position = problem.end(group) - events; position < problem.end(group); ++position) {
        const double own_weight = weight_of(position);
        if (own_weight == 0) continue;
        const double exponent = exponent_of(position);
        tied.add_exp(own_weight, exponent);
        weight += own_weight;
        loss += own_weight * (own_at_risk.origin() - exponent);
      }
      if (weight > 0) {
        loss += add_tied_events(events, weight, problem.efron, own_at_risk, tied, sum, own_reciprocals[group]);
      }
    }
    (truncated ? reciprocal_tree.leaf(group) : reciprocals[group]) = sum;
  }
  if (gradient == nullptr) return loss;

  if (truncated) reciprocal_tree.pull_up();
  for (int32_t group = 0; group < problem.groups; ++group) {
    for (int64_t position = problem.begin(group); position < problem.end(group); ++position) {
      const double exponent = exponent_of(position);
      double value = 0;
      if (truncated) {
        reciprocal_tree.for_each_node(group, last[position],
                                      [&](const Sum& node) { value += node.times_exp(exponent); });
      } else {
        value = reciprocals[group].times_exp(exponent);
      }
      if (problem.is_event(position)) value -= own_reciprocals[group].times_exp(exponent) + 1;
      const double weight = weight_of(position);
      gradient[problem.row(position)] = weight == 0 ? Real(0) : static_cast<Real>(weight * value * scale);
    }
  }
  return loss;
}

// ---- chunks in parallel

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
SURVCORE_INLINE int32_t end_of_stratum(const Problem<Real>& problem, int32_t first, int32_t last) {
  if (!problem.has(cox_stratified)) return last;
  int32_t end = first + 1;
  while (end < last && !problem.begins_stratum(end)) ++end;
  return end;
}

template <class Work, class Real>
SURVCORE_INLINE double fill_relative_hazards(const Problem<Real>& problem, double shift, int64_t first, int64_t end,
                                             Work* relative_hazards) {
  const int32_t* order = problem.plan.order();
  const Real* values = problem.log_hazard;
  double events = 0;
  const Work shift_in_work = static_cast<Work>(shift);
  if (problem.weights) {
    const Real* weights = problem.weights;
#pragma omp simd reduction(+ : events)
    for (int64_t position = first; position < end; ++position) {
      const int32_t row = order[position] >> 1;
      const Work exponent = static_cast<Work>(values[row]) - shift_in_work;
      const Work weight = static_cast<Work>(weights[row]);
      relative_hazards[position] = weight * exp_nonpositive(exponent);
      events += (order[position] & 1) ? static_cast<double>(weight * exponent) : 0.0;
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
  return events;
}

// The sum over the rows since the last beginning of a stratum.
template <class Work, class Real>
SURVCORE_INLINE void sum_chunk(const Problem<Real>& problem, int32_t first, int32_t last, const Work* relative_hazards,
                               ChunkSums& sums) {
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
SURVCORE_INLINE double add_ties(const Problem<Real>& problem, int32_t group, double sum, Buffers<Work>& buffers) {
  const int32_t count = problem.plan.events()[group];
  const int64_t end = problem.end(group);
  const Work* relative_hazards = buffers.relative_hazards.data();
  double weight = count;
  if (problem.weights) {
    weight = 0;
    for (int64_t position = end - count; position < end; ++position) {
      weight += problem.weight(problem.row(position));
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
SURVCORE_INLINE void sum_events(const Problem<Real>& problem, int32_t first, int32_t last, double carried,
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
SURVCORE_INLINE double sum_reciprocals(const Problem<Real>& problem, int32_t first, int32_t last,
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
SURVCORE_INLINE void write_gradients(const Problem<Real>& problem, int64_t begin, int64_t end, double carried,
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
SURVCORE_INLINE void events_of_chunk(const Problem<Real>& problem, int32_t first, int32_t last, double carried,
                                     bool with_gradient, Buffers<Work>& buffers, ChunkSums& sums) {
  for (int32_t begin = first, end; begin < last; begin = end) {
    end = end_of_stratum(problem, begin, last);
    sum_events(problem, begin, end, problem.begins_stratum(begin) ? 0.0 : carried, buffers, sums.loss);
    const double reciprocals = with_gradient ? sum_reciprocals(problem, begin, end, buffers) : 0.0;
    if (begin == first) sums.reciprocals = reciprocals;
  }
}

template <class Work, class Real>
SURVCORE_INLINE void gradients_of_chunk(const Problem<Real>& problem, int32_t first, int32_t last, double carried,
                                        double scale, Buffers<Work>& buffers, Real* gradient) {
  for (int32_t begin = first, end; begin < last; begin = end) {
    end = end_of_stratum(problem, begin, last);
    write_gradients(problem, problem.begin(begin), problem.begin(end), end == last ? carried : 0.0, scale, buffers,
                    gradient);
  }
}

// One definition of each stage for each type and instruction set.
#define SURVCORE_COX_KERNELS(Work, Real, bytes)                                                                       \
  SURVCORE_TARGET_##bytes void hazards_chunk(VectorWidth<bytes>, const Problem<Real>& problem, double shift,          \
                                             int32_t first, int32_t last, Buffers<Work>& buffers, ChunkSums& sums) {  \
    Work* relative_hazards = buffers.relative_hazards.data();                                                         \
    sums.loss = -fill_relative_hazards(problem, shift, problem.begin(first), problem.begin(last), relative_hazards);  \
    sum_chunk(problem, first, last, relative_hazards, sums);                                                          \
  }                                                                                                                   \
  SURVCORE_TARGET_##bytes void events_chunk(VectorWidth<bytes>, const Problem<Real>& problem, int32_t first,          \
                                            int32_t last, double carried, bool with_gradient, Buffers<Work>& buffers, \
                                            ChunkSums& sums) {                                                        \
    events_of_chunk(problem, first, last, carried, with_gradient, buffers, sums);                                     \
  }                                                                                                                   \
  SURVCORE_TARGET_##bytes void gradient_chunk(VectorWidth<bytes>, const Problem<Real>& problem, int32_t first,        \
                                              int32_t last, double carried, double scale, Buffers<Work>& buffers,     \
                                              Real* gradient) {                                                       \
    gradients_of_chunk(problem, first, last, carried, scale, buffers, gradient);                                      \
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

// The first group of each chunk, and the number of groups at the end. A chunk is about chunk_rows positions.
template <class Real>
std::vector<int32_t> chunk_bounds(const Problem<Real>& problem) {
  const int32_t* start = problem.plan.start();
  std::vector<int32_t> bounds;
  for (int64_t position = 0; position < problem.rows; position += chunk_rows) {
    const auto first = std::lower_bound(start, start + problem.groups, static_cast<int32_t>(2 * position));
    const auto group = static_cast<int32_t>(first - start);
    if (group < problem.groups && (bounds.empty() || bounds.back() != group)) bounds.push_back(group);
  }
  bounds.push_back(problem.groups);
  return bounds;
}

template <class Work, class Real>
double chunked_loss(const Problem<Real>& problem, double shift, Real* gradient, double scale) {
  const std::vector<int32_t> bounds = chunk_bounds(problem);
  const auto chunks = static_cast<int64_t>(bounds.size()) - 1;
  const bool tied = problem.efron && problem.has(cox_tied);
  Buffers<Work> buffers{Scratch<Work>(problem.rows), Scratch<Work>(problem.rows),
                        Scratch<Work>(tied ? problem.groups : 0)};
  std::vector<ChunkSums> sums(chunks);
  const auto parallel = [&](const auto& body) {
    for_each_chunk(chunks, 1, chunk_rows, [&](int64_t chunk, int64_t, int64_t) {
      with_vector_width([&](auto width) { body(width, chunk, bounds[chunk], bounds[chunk + 1]); });
    });
  };
  parallel([&](auto width, int64_t chunk, int32_t first, int32_t last) {
    hazards_chunk(width, problem, shift, first, last, buffers, sums[chunk]);
  });
  std::vector<double> carried(chunks);
  double sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    carried[chunk] = sum;
    sum = sums[chunk].begins ? sums[chunk].at_risk : sum + sums[chunk].at_risk;
  }
  parallel([&](auto width, int64_t chunk, int32_t first, int32_t last) {
    events_chunk(width, problem, first, last, carried[chunk], gradient != nullptr, buffers, sums[chunk]);
  });
  double loss = 0;
  for (const ChunkSums& part : sums) loss += part.loss;
  if (gradient == nullptr) return loss;
  sum = 0;
  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    carried[chunk] = sum;
    const bool starts_stratum = problem.begins_stratum(bounds[chunk]);
    sum = starts_stratum ? 0 : (sums[chunk].begins ? 0 : sum) + sums[chunk].reciprocals;
  }
  parallel([&](auto width, int64_t chunk, int32_t first, int32_t last) {
    gradient_chunk(width, problem, first, last, carried[chunk], scale, buffers, gradient);
  });
  return loss;
}

// ---- the op

template <class Real>
struct Range {
  Real smallest;
  Real largest;
  bool finite;
};

// Floating numbers as integers in the same order, and back; NaN lies beyond the infinities.
template <class Real>
SURVCORE_INLINE auto ordered_bits(Real value) {
  using Bits = std::conditional_t<sizeof(Real) == sizeof(float), int32_t, int64_t>;
  const Bits bits = std::bit_cast<Bits>(value);
  return static_cast<Bits>(bits ^ (bits >> (8 * sizeof(Bits) - 1) & std::numeric_limits<Bits>::max()));
}
template <class Real, class Bits>
Real from_ordered_bits(Bits bits) {
  return std::bit_cast<Real>(
      static_cast<Bits>(bits ^ (bits >> (8 * sizeof(Bits) - 1) & std::numeric_limits<Bits>::max())));
}

// Integers, because compilers do not vectorise the comparison of floating numbers, which may be NaN.
template <class Real>
SURVCORE_INLINE void find_range(const Real* values, int64_t rows, Range<Real>& range) {
  constexpr Real infinity = std::numeric_limits<Real>::infinity();
  auto smallest = ordered_bits(infinity);
  auto largest = ordered_bits(-infinity);
#pragma omp simd reduction(min : smallest) reduction(max : largest)
  for (int64_t row = 0; row < rows; ++row) {
    const auto bits = ordered_bits(values[row]);
    smallest = bits < smallest ? bits : smallest;
    largest = bits > largest ? bits : largest;
  }
  range = {from_ordered_bits<Real>(smallest), from_ordered_bits<Real>(largest),
           smallest > ordered_bits(-infinity) && largest < ordered_bits(infinity)};
}

#define SURVCORE_RANGE_KERNEL(Real, bytes)                                                                          \
  SURVCORE_TARGET_##bytes void range_of(VectorWidth<bytes>, const Real* values, int64_t rows, Range<Real>& range) { \
    find_range(values, rows, range);                                                                                \
  }
SURVCORE_RANGE_KERNEL(float, 64)
SURVCORE_RANGE_KERNEL(float, 32)
SURVCORE_RANGE_KERNEL(float, 16)
SURVCORE_RANGE_KERNEL(double, 64)
SURVCORE_RANGE_KERNEL(double, 32)
SURVCORE_RANGE_KERNEL(double, 16)
#undef SURVCORE_RANGE_KERNEL

template <class Real>
std::tuple<Tensor, Tensor> forward(const Tensor& log_hazard, const Tensor& plan, const Tensor& weights, bool efron,
                                   bool mean, bool with_gradient) {
  const int64_t rows = log_hazard.numel();
  Problem<Real> problem;
  problem.log_hazard = static_cast<const Real*>(log_hazard.const_data_ptr());
  problem.weights = weights.numel() ? static_cast<const Real*>(weights.const_data_ptr()) : nullptr;
  problem.plan = {static_cast<const int32_t*>(plan.const_data_ptr()), rows};
  const int32_t* header = problem.plan.header();
  STD_TORCH_CHECK(header[cox_rows] == rows, "risk_sets are of ", header[cox_rows], " rows, log_hazard has ", rows);
  STD_TORCH_CHECK(header[cox_error] == 0, "risk_sets were built from invalid times or events");
  STD_TORCH_CHECK(plan.numel() >= CoxSections<int32_t>::size(rows, header[cox_flags] & cox_truncated),
                  "risk_sets are cut short");
  problem.rows = rows;
  problem.groups = header[cox_groups];
  problem.flags = header[cox_flags];
  problem.efron = efron;

  Tensor loss = empty_on(log_hazard, {}, log_hazard.scalar_type());
  Tensor gradient = empty_on(log_hazard, {with_gradient ? rows : 0}, log_hazard.scalar_type());
  Real* gradients = with_gradient ? static_cast<Real*>(gradient.mutable_data_ptr()) : nullptr;

  double divisor = 1;
  if (mean) {
    double total = 0;
    if (problem.weights == nullptr) {
      total = header[cox_events];
    } else {
      for (int64_t position = 0; position < rows; ++position) {
        total += problem.is_event(position) ? problem.weight(problem.row(position)) : 0.0;
      }
    }
    divisor = total == 0 ? 1 : total;
  }
  double value = 0;
  if (rows > 0) {
    Range<Real> range;
    with_vector_width([&](auto width) { range_of(width, problem.log_hazard, rows, range); });
    const double span = static_cast<double>(range.largest) - static_cast<double>(range.smallest);
    const bool chunked = range.finite && !problem.has(cox_truncated);
    if (chunked && sizeof(Real) == sizeof(float) && span < 16 && problem.weights == nullptr) {
      value = chunked_loss<Real>(problem, range.largest, gradients, 1 / divisor);
    } else if (chunked && span < 600) {
      value = chunked_loss<double>(problem, range.largest, gradients, 1 / divisor);
    } else if (range.finite && span < 600) {
      value = serial_loss<PlainSum>(problem, range.largest, gradients, 1 / divisor);
    } else {
      value = serial_loss<PairSum>(problem, 0, gradients, 1 / divisor);
      // Infinite relative hazards cannot be compared.
      constexpr Real infinity = std::numeric_limits<Real>::infinity();
      if (!std::all_of(problem.log_hazard, problem.log_hazard + rows, [](Real x) { return x < infinity; })) {
        value = std::numeric_limits<double>::quiet_NaN();
        if (gradients) std::fill_n(gradients, rows, std::numeric_limits<Real>::quiet_NaN());
      }
    }
  }
  *static_cast<Real*>(loss.mutable_data_ptr()) = static_cast<Real>(value / divisor);
  return {loss, gradient};
}

std::tuple<Tensor, Tensor> cox_ph_loss(const Tensor& log_hazard, const Tensor& risk_sets, const Tensor& weights,
                                       std::string ties, std::string reduction, bool gradient) {
  STD_TORCH_CHECK(ties == "efron" || ties == "breslow", "ties must be 'efron' or 'breslow', got '", ties, "'");
  STD_TORCH_CHECK(reduction == "mean" || reduction == "sum", "reduction must be 'mean' or 'sum', got '", reduction,
                  "'");
  const ScalarType type = compute_type(log_hazard);
  const Tensor values = contiguous_as(log_hazard, type);
  const Tensor plan = contiguous_as(risk_sets, ScalarType::Int);
  const Tensor case_weights = contiguous_as(weights, type);
  const int64_t rows = values.numel();
  STD_TORCH_CHECK(case_weights.numel() == rows || case_weights.numel() == 0,
                  "weights must have one entry per row of log_hazard, or none");
  STD_TORCH_CHECK(plan.numel() >= CoxSections<int32_t>::size(rows, false),
                  "risk_sets are of fewer rows than log_hazard");
  return type == ScalarType::Double
             ? forward<double>(values, plan, case_weights, ties == "efron", reduction == "mean", gradient)
             : forward<float>(values, plan, case_weights, ties == "efron", reduction == "mean", gradient);
}

// The forward pass has computed it all; what is left is the chain rule's factor.
Tensor cox_ph_loss_backward(const Tensor& grad_loss, const Tensor& gradient) {
  const ScalarType type = gradient.scalar_type();
  const Tensor upstream = contiguous_as(grad_loss, type);
  const Tensor values = contiguous_as(gradient, type);
  STD_TORCH_CHECK(upstream.numel() == 1, "grad_loss must be a scalar");
  const int64_t rows = values.numel();
  Tensor result = empty_on(values, {rows}, type);
  const auto scale = [&](auto real) {
    using Real = decltype(real);
    const Real factor = *static_cast<const Real*>(upstream.const_data_ptr());
    const Real* from = static_cast<const Real*>(values.const_data_ptr());
    Real* to = static_cast<Real*>(result.mutable_data_ptr());
    for_each_chunk(rows, 1 << 15, 1, [&](int64_t, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) to[row] = factor * from[row];
    });
  };
  if (type == ScalarType::Double) {
    scale(double());
  } else {
    scale(float());
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) {
  m.impl("cox_ph_loss", TORCH_BOX(&cox_ph_loss));
  m.impl("cox_ph_loss_backward", TORCH_BOX(&cox_ph_loss_backward));
}

}  // namespace survcore
