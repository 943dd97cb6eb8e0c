// CPU kernels of info_nce.
//
// The logits of a pair of chunks of entries are made tile by tile, by one product, and never kept. One tile serves the
// sums of its rows and of its columns, and in backward the gradients of both, by two more products: 2 and 6 B^2 D
// operations for B pairs of width D, in registers (common/packed_product.h). Pairs of chunks run in rounds in which no
// chunk appears twice (common/pair_rounds.h), so that threads share nothing and results do not depend on their number.
// Memory beside results: three packed chunks and a tile per thread, and a few numbers per entry; copies of what is
// masked, and gradients of widths that do not fill panels.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "common/info_nce_pair.h"
#include "common/parallel.h"
#include "common/tensors.h"

namespace survcore {
namespace {

// Gradients of entries [begin, end) from the sums of weighted entries, times `factor`; written to their rows of
// `gradients`. Returns the sum of z.dz over the unit vectors z, which the temperature's gradient is made of.
template <int bytes, class Real>
SURVCORE_INLINE double finish_entries(const InfoNceGroup<Real>& group, const InfoNceOptions& options, int64_t begin,
                                      int64_t end, Real factor, Real* const gradients[2]) {
  double total = 0;
  for (int64_t entry = begin; entry < end; ++entry) {
    const Real* row = group.at(entry);
    const Real* weighted = group.weighted_at(entry);
    Real* gradient = gradients[entry >= group.count] + group.row_of(entry) * group.width;
    const Real inverse = options.normalize ? inverse_length(squared_length<bytes>(row, group.width)) : Real(1);
    const Real along =
        factor * inverse * vector_sum<bytes, Real>(group.width, [&](int64_t i, auto& sum) SURVCORE_INLINE_LAMBDA {
          std::remove_reference_t<decltype(sum)> left, right;
          load_entries(row, i, left);
          load_entries(weighted, i, right);
          sum += left * right;
        });
    total += along;
    const Real by_row = options.normalize && length_varies(inverse) ? -inverse * inverse * along : Real(0);
    const Real by_sum = inverse * factor;
#pragma omp simd
    for (int64_t i = 0; i < group.width; ++i) gradient[i] = by_sum * weighted[i] + by_row * row[i];
  }
  return total;
}

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
    return finish_entries<bytes>(group, options, begin, end, factor, gradients);                                       \
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

template <class Real>
std::tuple<Tensor, Tensor> forward(const Inputs& inputs) {
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  const int64_t rows = inputs.rows, entries = inputs.entries();
  Tensor loss =
      inputs.grouped ? empty_on(inputs.query, {inputs.groups}, inputs.type) : empty_on(inputs.query, {}, inputs.type);
  Tensor statistics = inputs.grouped ? empty_on(inputs.query, {inputs.groups, 3, rows}, ScalarType::Double)
                                     : empty_on(inputs.query, {3, rows}, ScalarType::Double);
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
  Real* losses = static_cast<Real*>(loss.mutable_data_ptr());
  double* numbers = static_cast<double*>(statistics.mutable_data_ptr());
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
  return {loss, statistics};
}

template <class Real>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_loss, const Tensor& statistics, const Inputs& inputs) {
  const int64_t rows = inputs.rows, width = inputs.width, entries = inputs.entries();
  STD_TORCH_CHECK(grad_loss.numel() == inputs.groups, "grad_loss must have the shape of the loss");
  STD_TORCH_CHECK(statistics.numel() == inputs.groups * 3 * rows, "statistics must have 3 numbers per row");
  const Tensor upstream = contiguous_as(grad_loss, ScalarType::Double);
  const Tensor numbers = contiguous_as(statistics, ScalarType::Double);
  const auto empty = [&](ScalarType type) {
    return inputs.grouped ? empty_on(inputs.query, {inputs.groups, rows, width}, type)
                          : empty_on(inputs.query, {rows, width}, type);
  };
  Tensor results[2] = {empty(inputs.type), empty(inputs.type)};
  Tensor grad_temperature = empty_on(inputs.query, {1}, ScalarType::Double);
  Real* const outputs[2] = {static_cast<Real*>(results[0].mutable_data_ptr()),
                            static_cast<Real*>(results[1].mutable_data_ptr())};

  // Weighted entries are summed where the gradients go, if they lie there as products write them: unmasked rows of
  // whole panels.
  constexpr int64_t widest_panel = 2 * 64 / sizeof(Real);
  const int64_t stride = in_whole(width, widest_panel);
  const bool in_place = !inputs.masked() && stride == width;
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

std::tuple<Tensor, Tensor> info_nce(const Tensor& query, const Tensor& key, const Tensor& row_mask,
                                    const Tensor& temperature, std::string form, bool normalize, int64_t rank,
                                    int64_t ranks) {
  const Inputs inputs(query, key, row_mask, temperature, form, normalize, rank, ranks);
  return inputs.type == ScalarType::Double ? forward<double>(inputs) : forward<float>(inputs);
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
