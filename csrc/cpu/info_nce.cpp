// CPU kernels of info_nce.
//
// The logits of a pair of chunks of entries are made tile by tile, by one product, and never kept. One tile serves the
// sums of its rows and of its columns, and in backward the gradients of both, by two more products: 2 and 6 B^2 D
// operations for B pairs of width D, in registers (common/packed_product.h). Pairs of chunks run in rounds in which no
// chunk appears twice (common/pair_rounds.h), so that threads share nothing and results do not depend on their number.
// Memory beside results: three packed chunks and a tile per thread, and a few numbers per entry; copies of what is
// masked, and gradients of widths that do not fill panels. Where the forward pass is asked for the gradients too,
// logits are kept from one to the other, 6 B^2 D operations in all (common/info_nce_kept.h), in 4 B^2 bytes ("nt_xent":
// 12).
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "common/info_nce_kept.h"
#include "common/info_nce_pair.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "common/tensors.h"

namespace survcore {
namespace {

// One definition for each type and instruction set.
#define SURVCORE_INFO_NCE_KERNELS(Real, bytes)                                                                         \
  SURVCORE_TARGET_##bytes void forward_kernel(VectorWidth<bytes>, const InfoNceGroup<Real>& group,                     \
                                              const InfoNceOptions& options, const InfoNceChunks& chunks,              \
                                              ChunkPair pair) {                                                        \
    forward_pair<bytes>(group, options, chunks, pair);                                                                 \
  }                                                                                                                    \
  SURVCORE_TARGET_##bytes void backward_kernel(VectorWidth<bytes>, const InfoNceGroup<Real>& group,                    \
                                               const InfoNceOptions& options, const InfoNceChunks& chunks,             \
                                               ChunkPair pair) {                                                       \
    backward_pair<bytes>(group, options, chunks, pair);                                                                \
  }                                                                                                                    \
  SURVCORE_TARGET_##bytes double finish_kernel(VectorWidth<bytes>, const InfoNceGroup<Real>& group,                    \
                                               const InfoNceOptions& options, int64_t begin, int64_t end, Real factor, \
                                               Real* const gradients[2]) {                                             \
    return finish_entries<bytes>(group, options.normalize, begin, end, factor, gradients);                             \
  }                                                                                                                    \
  SURVCORE_TARGET_##bytes void kept_kernel(VectorWidth<bytes>, InfoNceKept<Real>& kept, const InfoNceOptions& options, \
                                           InfoNceStage stage, int64_t chunk) {                                        \
    do_job<bytes>(kept, options, stage, chunk);                                                                        \
  }
SURVCORE_INFO_NCE_KERNELS(float, 64)
SURVCORE_INFO_NCE_KERNELS(float, 32)
SURVCORE_INFO_NCE_KERNELS(float, 16)
SURVCORE_INFO_NCE_KERNELS(double, 64)
SURVCORE_INFO_NCE_KERNELS(double, 32)
SURVCORE_INFO_NCE_KERNELS(double, 16)
#undef SURVCORE_INFO_NCE_KERNELS

// The inputs in the type of the computation, contiguous; they own what groups point to.
struct Inputs {
  ScalarType type;
  Tensor query, key, row_mask;
  bool grouped;
  int64_t groups, rows, width;
  InfoNceOptions options;
  std::vector<int64_t> valid;   // of all groups, one after the other; none where there is no mask
  std::vector<int64_t> counts;  // [groups]

  Inputs(const Tensor& query_, const Tensor& key_, const Tensor& row_mask_, const Tensor& temperature,
         const std::string& form, bool normalize, int64_t rank, int64_t ranks)
      : type(compute_type(query_)),
        query(contiguous_as(query_, type)),
        key(contiguous_as(key_, type)),
        row_mask(contiguous_as(row_mask_, ScalarType::Bool)) {
    check_device("key", key, "query", query);
    check_device("row_mask", row_mask, "query", query);
    STD_TORCH_CHECK(query.dim() == 2 || query.dim() == 3, "query must be [B, D] or [G, B, D], got ", query.dim(),
                    " dimensions");
    STD_TORCH_CHECK(key.sizes().equals(query.sizes()), "key must have the shape of query");
    STD_TORCH_CHECK(temperature.numel() == 1 && temperature.is_cpu(), "temperature must be one number on the CPU");
    STD_TORCH_CHECK(form == "cross_modal" || form == "nt_xent", "form must be 'cross_modal' or 'nt_xent', got '", form,
                    "'");
    STD_TORCH_CHECK(ranks >= 1 && rank >= 0 && rank < ranks, "rank must be in 0..ranks - 1, got ", rank, " of ", ranks);
    grouped = query.dim() == 3;
    groups = grouped ? query.size(0) : 1;
    rows = query.size(-2);
    width = query.size(-1);
    const Tensor number = contiguous_as(temperature, ScalarType::Double);
    options = {form == "nt_xent", normalize, *static_cast<const double*>(number.const_data_ptr()), {rank, ranks}};
    find_valid();
  }

  bool masked() const { return row_mask.numel() > 0; }

  int64_t entries() const {  // of all groups
    int64_t result = 0;
    for (const int64_t count : counts) result += 2 * count;
    return result;
  }

  // Uninitialised, of the shape of query but for the number of rows.
  Tensor empty_rows(int64_t count) const {
    return grouped ? empty_on(query, {groups, count, width}, type) : empty_on(query, {count, width}, type);
  }

  template <class Real>
  InfoNceGroup<Real> group(int64_t index) const {
    const int64_t offset = index * rows * width;
    int64_t before = 0;
    for (int64_t i = 0; i < index; ++i) before += counts[i];
    InfoNceGroup<Real> result{};
    result.sides[0] = static_cast<const Real*>(query.const_data_ptr()) + offset;
    result.sides[1] = static_cast<const Real*>(key.const_data_ptr()) + offset;
    result.valid = masked() ? valid.data() + before : nullptr;
    result.count = counts[index];
    result.width = width;
    return result;
  }

 private:
  void find_valid() {
    counts.assign(groups, rows);
    if (!masked()) return;
    const bool shared = row_mask.dim() == 1;  // one mask for all groups
    STD_TORCH_CHECK(row_mask.numel() == (shared ? rows : groups * rows),
                    "row_mask must be [B], or [G, B] for a query [G, B, D]");
    const bool* mask = static_cast<const bool*>(row_mask.const_data_ptr());
    for (int64_t group = 0; group < groups; ++group) {
      const auto before = static_cast<int64_t>(valid.size());
      for (int64_t row = 0; row < rows; ++row) {
        if (mask[(shared ? 0 : group * rows) + row]) valid.push_back(row);
      }
      counts[group] = static_cast<int64_t>(valid.size()) - before;
    }
  }
};

// Calls body(width, group, chunks, pair) for every pair of chunks of every group, in rounds.
template <class Real, class Body>
void in_rounds(const Inputs& inputs, const std::vector<InfoNceGroup<Real>>& groups, const Body& body) {
  struct Job {
    int64_t group;
    ChunkPair pair;
  };
  std::vector<InfoNceChunks> chunks;
  std::vector<std::vector<Job>> rounds;
  int64_t largest = 0;
  for (int64_t group = 0; group < inputs.groups; ++group) {
    chunks.emplace_back(groups[group].count, inputs.options.share);
    if (groups[group].count == 0) continue;
    largest = std::max(largest, std::min(groups[group].count, chunks[group].chunk_rows));
    const Rounds own = chunks[group].rounds(inputs.options.among);
    rounds.resize(std::max(rounds.size(), own.size()));
    for (std::size_t round = 0; round < own.size(); ++round) {
      for (const ChunkPair pair : own[round]) rounds[round].push_back({group, pair});
    }
  }
  // Sixteen multiplications take about as long as to load an element.
  const int64_t work = largest * largest * (1 + inputs.width / 16);
  for (const std::vector<Job>& jobs : rounds) {
    for_each_chunk(static_cast<int64_t>(jobs.size()), 1, work, [&](int64_t index, int64_t, int64_t) {
      const Job& job = jobs[index];
      with_vector_width([&](auto vectors) { body(vectors, groups[job.group], chunks[job.group], job.pair); });
    });
  }
}

// Results of the forward pass; gradients are those of the sum of the losses, in the type of the computation, and
// without rows where they are not made.
using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

struct Outputs {
  Tensor loss, statistics, gradients[2], along;

  Outputs(const Inputs& inputs, bool with_gradient)
      : loss(inputs.grouped ? empty_on(inputs.query, {inputs.groups}, inputs.type)
                            : empty_on(inputs.query, {}, inputs.type)),
        statistics(inputs.grouped ? empty_on(inputs.query, {inputs.groups, 3, inputs.rows}, ScalarType::Double)
                                  : empty_on(inputs.query, {3, inputs.rows}, ScalarType::Double)),
        gradients{inputs.empty_rows(with_gradient ? inputs.rows : 0),
                  inputs.empty_rows(with_gradient ? inputs.rows : 0)},
        along(empty_on(inputs.query, {with_gradient ? inputs.groups : 0}, ScalarType::Double)) {}

  Results results() const { return {loss, statistics, gradients[0], gradients[1], along}; }
};

// Whether sums of weighted entries can lie where the gradients go, as products write them: unmasked rows of whole
// panels.
template <class Real>
bool gradients_in_place(const Inputs& inputs) {
  return !inputs.masked() && inputs.width % (2 * 64 / sizeof(Real)) == 0;
}

template <class Real>
Results forward(const Inputs& inputs) {
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  const int64_t rows = inputs.rows, entries = inputs.entries();
  const Outputs outputs(inputs, false);
  std::vector<Real> shift(entries, -std::numeric_limits<Real>::infinity());
  std::vector<double> sum(entries, 0.0);
  std::vector<Real> own(entries / 2, -std::numeric_limits<Real>::infinity());
  std::vector<InfoNceGroup<Real>> groups;
  int64_t before = 0;
  for (int64_t index = 0; index < inputs.groups; ++index) {
    InfoNceGroup<Real> group = inputs.group<Real>(index);
    group.shift = shift.data() + before;
    group.sum = sum.data() + before;
    group.own = own.data() + before / 2;
    before += 2 * group.count;
    groups.push_back(group);
  }
  in_rounds(inputs, groups, [&](auto width, const auto& group, const InfoNceChunks& chunks, ChunkPair pair) {
    forward_kernel(width, group, inputs.options, chunks, pair);
  });
  Real* losses = static_cast<Real*>(outputs.loss.mutable_data_ptr());
  double* numbers = static_cast<double*>(outputs.statistics.mutable_data_ptr());
  std::fill_n(numbers, inputs.groups * 3 * rows, nothing);
  for (int64_t index = 0; index < inputs.groups; ++index) {
    const InfoNceGroup<Real>& group = groups[index];
    double* of_group = numbers + index * 3 * rows;
    double total = 0;
    for (int64_t entry = 0; entry < 2 * group.count; ++entry) {
      const int64_t row = group.row_of(entry);
      const int64_t side = entry >= group.count;
      const double others = std::log(group.sum[entry]) + group.shift[entry];
      const double own_logit = group.own[entry - side * group.count];
      total += softplus(others - own_logit);
      of_group[side * rows + row] = others;
      of_group[2 * rows + row] = own_logit;
    }
    losses[index] = group.count ? static_cast<Real>(total / static_cast<double>(2 * group.count)) : Real(0);
  }
  return outputs.results();
}

// Stages of some groups, whose jobs are dealt out from both ends: those of one end are the larger ones.
template <class Real>
void run_stages(std::vector<InfoNceKept<Real>>& groups, const InfoNceOptions& options) {
  struct Job {
    InfoNceKept<Real>* group;
    int64_t chunk;
  };
  std::vector<Job> jobs;
  for (const InfoNceStage stage : info_nce_stages) {
    const bool product = stage != InfoNceStage::pack && stage != InfoNceStage::join;
    jobs.clear();
    int64_t work = 1;
    for (InfoNceKept<Real>& group : groups) {
      const int64_t chunks = group.count_chunks(), rows = std::min(group.group.count, group.chunks.chunk_rows);
      for (int64_t i = 0; i < chunks; ++i) {
        const int64_t chunk = i % 2 ? chunks - 1 - i / 2 : i / 2;
        if (has_job(group, stage, chunk)) jobs.push_back({&group, chunk});
      }
      // Sixteen multiplications take about as long as to load an element.
      const int64_t of_row = product ? group.group.count * (1 + group.group.width / 16) : group.group.width;
      work = std::max(work, rows * of_row);
    }
    for_each_chunk(static_cast<int64_t>(jobs.size()), 1, work, [&](int64_t index, int64_t, int64_t) {
      const Job& job = jobs[index];
      with_vector_width([&](auto vectors) { kept_kernel(vectors, *job.group, options, stage, job.chunk); });
    });
  }
}

template <class Real>
Results forward_with_gradient(const Inputs& inputs) {
  constexpr int64_t most_together = (int64_t(1) << 20) / sizeof(Real);  // numbers of groups that are done together
  const int64_t rows = inputs.rows, width = inputs.width;
  const Outputs outputs(inputs, true);
  Real* const gradients[2] = {static_cast<Real*>(outputs.gradients[0].mutable_data_ptr()),
                              static_cast<Real*>(outputs.gradients[1].mutable_data_ptr())};
  Real* losses = static_cast<Real*>(outputs.loss.mutable_data_ptr());
  double* numbers = static_cast<double*>(outputs.statistics.mutable_data_ptr());
  double* along = static_cast<double*>(outputs.along.mutable_data_ptr());
  if (inputs.masked()) {
    std::fill_n(numbers, inputs.groups * 3 * rows, -std::numeric_limits<double>::infinity());
    for (Real* gradient : gradients) std::fill_n(gradient, inputs.groups * rows * width, Real(0));
  }
  const bool in_place = gradients_in_place<Real>(inputs);
  const int64_t stride = in_place ? width : round_up(width, InfoNceKept<Real>::widest);
  const auto place = [&](std::vector<InfoNceKept<Real>>& groups, Parts<Real>& reals, Parts<double>& doubles) {
    for (InfoNceKept<Real>& kept : groups) {
      kept.place(reals, doubles);
      kept.group.own = reals.take(kept.group.count);
      for (int64_t side = 0; side < 2; ++side)
        kept.group.weighted[side] = in_place ? kept.gradients[side] : reals.take(kept.group.count * stride);
      kept.group.weighted_stride = stride;
    }
  };
  std::vector<InfoNceKept<Real>> groups;
  for (int64_t index = 0, first = 0; index < inputs.groups; first = index) {
    groups.clear();
    Parts<Real> reals{nullptr};
    Parts<double> doubles{nullptr};
    while (index < inputs.groups && reals.used < most_together) {
      Real* const of_group[2] = {gradients[0] + index * rows * width, gradients[1] + index * rows * width};
      groups.emplace_back(inputs.group<Real>(index), inputs.options.among, of_group,
                          InfoNceStatistics{numbers + index * 3 * rows, rows});
      groups.back().place(reals, doubles);
      ++index;
    }
    reals = {nullptr};
    doubles = {nullptr};
    place(groups, reals, doubles);
    Scratch<Real> memory(reals.used);
    Scratch<double> memory_of_sums(doubles.used);
    reals = {memory.data()};
    doubles = {memory_of_sums.data()};
    place(groups, reals, doubles);
    for (InfoNceKept<Real>& kept : groups)
      std::fill_n(kept.group.own, kept.group.count, -std::numeric_limits<Real>::infinity());
    run_stages(groups, inputs.options);
    for (std::size_t i = 0; i < groups.size(); ++i) {
      const InfoNceKept<Real>& kept = groups[i];
      double loss = 0, sum = 0;
      for (const double part : kept.losses) loss += part;
      for (const double part : kept.along) sum += part;
      losses[first + i] = kept.group.count ? static_cast<Real>(loss / static_cast<double>(2 * kept.group.count)) : 0;
      along[first + i] = -sum / (2.0 * inputs.options.temperature);
    }
  }
  return outputs.results();
}

template <class Real>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_loss, const Tensor& statistics, const Inputs& inputs) {
  const int64_t rows = inputs.rows, width = inputs.width, entries = inputs.entries();
  STD_TORCH_CHECK(grad_loss.numel() == inputs.groups, "grad_loss must have the shape of the loss");
  STD_TORCH_CHECK(statistics.numel() == inputs.groups * 3 * rows, "statistics must have 3 numbers per row");
  const Tensor upstream = contiguous_as(grad_loss, ScalarType::Double);
  const Tensor numbers = contiguous_as(statistics, ScalarType::Double);
  const Tensor results[2] = {inputs.empty_rows(rows), inputs.empty_rows(rows)};
  Tensor grad_temperature = empty_on(inputs.query, {1}, ScalarType::Double);
  Real* const outputs[2] = {static_cast<Real*>(results[0].mutable_data_ptr()),
                            static_cast<Real*>(results[1].mutable_data_ptr())};

  const bool in_place = gradients_in_place<Real>(inputs);
  const int64_t stride = in_place ? width : round_up(width, InfoNceKept<Real>::widest);
  Scratch<Real> room(in_place ? 0 : entries * stride);
  std::vector<double> log_sum(entries);
  std::vector<InfoNceGroup<Real>> groups;
  int64_t before = 0;
  for (int64_t index = 0; index < inputs.groups; ++index) {
    InfoNceGroup<Real> group = inputs.group<Real>(index);
    const double* of_group = static_cast<const double*>(numbers.const_data_ptr()) + index * 3 * rows;
    for (int64_t entry = 0; entry < 2 * group.count; ++entry) {
      const int64_t row = group.row_of(entry);
      const double own = of_group[2 * rows + row];
      log_sum[before + entry] = own + softplus(of_group[(entry >= group.count) * rows + row] - own);
    }
    group.log_sum = log_sum.data() + before;
    group.weighted_stride = stride;
    for (int64_t side = 0; side < 2; ++side) {
      group.weighted[side] =
          in_place ? outputs[side] + index * rows * width : room.data() + (before + side * group.count) * stride;
    }
    before += 2 * group.count;
    groups.push_back(group);
  }
  if (!in_place) std::fill_n(room.data(), entries * stride, Real(0));
  for (Real* output : outputs) std::fill_n(output, inputs.groups * rows * width, Real(0));

  in_rounds(inputs, groups, [&](auto vectors, const auto& group, const InfoNceChunks& chunks, ChunkPair pair) {
    backward_kernel(vectors, group, inputs.options, chunks, pair);
  });

  const double* gradient = static_cast<const double*>(upstream.const_data_ptr());
  const double temperature = inputs.options.temperature;
  double by_temperature = 0;
  for (int64_t index = 0; index < inputs.groups; ++index) {
    const InfoNceGroup<Real>& group = groups[index];
    if (group.count == 0) continue;
    const Real factor = static_cast<Real>(gradient[index] / (2.0 * static_cast<double>(group.count) * temperature));
    Real* const of_group[2] = {outputs[0] + index * rows * width, outputs[1] + index * rows * width};
    constexpr int64_t chunk_rows = 1024;
    std::vector<double> sums((2 * group.count + chunk_rows - 1) / chunk_rows);
    for_each_chunk(2 * group.count, chunk_rows, 2 * width, [&](int64_t chunk, int64_t begin, int64_t end) {
      with_vector_width([&](auto vectors) {
        sums[chunk] = finish_kernel(vectors, group, inputs.options, begin, end, factor, of_group);
      });
    });
    for (const double sum : sums) by_temperature -= sum / (2.0 * temperature);
  }
  *static_cast<double*>(grad_temperature.mutable_data_ptr()) = by_temperature;
  return {results[0], results[1], grad_temperature};
}

Results info_nce(const Tensor& query, const Tensor& key, const Tensor& row_mask, const Tensor& temperature,
                 std::string form, bool normalize, int64_t rank, int64_t ranks, bool with_gradient) {
  const Inputs inputs(query, key, row_mask, temperature, form, normalize, rank, ranks);
  STD_TORCH_CHECK(!with_gradient || ranks == 1, "with_gradient needs ranks = 1, got ", ranks);
  if (inputs.type == ScalarType::Double)
    return with_gradient ? forward_with_gradient<double>(inputs) : forward<double>(inputs);
  return with_gradient ? forward_with_gradient<float>(inputs) : forward<float>(inputs);
}

std::tuple<Tensor, Tensor, Tensor> info_nce_backward(const Tensor& grad_loss, const Tensor& query, const Tensor& key,
                                                     const Tensor& row_mask, const Tensor& temperature,
                                                     const Tensor& statistics, std::string form, bool normalize,
                                                     int64_t rank, int64_t ranks) {
  const Inputs inputs(query, key, row_mask, temperature, form, normalize, rank, ranks);
  const auto [grad_query, grad_key, grad_temperature] = inputs.type == ScalarType::Double
                                                            ? backward<double>(grad_loss, statistics, inputs)
                                                            : backward<float>(grad_loss, statistics, inputs);
  return {contiguous_as(grad_query, query.scalar_type()), contiguous_as(grad_key, key.scalar_type()),
          contiguous_as(grad_temperature, temperature.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) {
  m.impl("info_nce", TORCH_BOX(&info_nce));
  m.impl("info_nce_backward", TORCH_BOX(&info_nce_backward));
}

}  // namespace survcore
