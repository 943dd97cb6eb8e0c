// CPU kernels of discrete_hazard_nll: sixteen rows at a time, one row per vector lane (common/row_tile.h), one pass
// over the logits forward and one backward. The mathematics is core/hazard.h, shared with the CUDA kernel.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "common/hazard_arguments.h"
#include "common/parallel.h"
#include "common/row_tile.h"
#include "common/tensors.h"
#include "core/hazard.h"

namespace survcore {
namespace {

constexpr int chunk_rows = 512;

// One call's data.
template <class Real>
struct Problem {
  const Real* logits;       // [rows, bins]
  const int64_t* time_bin;  // [rows]
  EventCodes event;         // [rows]
  const Real* weights;      // [rows], or null: all 1
  int32_t bins;
  HazardForm form;
  Real alpha;
};

// What the rows of a chunk read, filled up to whole tiles with rows that read nothing. Kept as one array per quantity
// and computed in short loops of one kind of number each, which compilers vectorise.
template <class Real>
struct ChunkRows {
  static constexpr int lanes = RowTile<Real>::lanes;

  alignas(64) int32_t begin[chunk_rows];
  alignas(64) int32_t end[chunk_rows];
  alignas(64) int32_t flipped[chunk_rows];
  // What the row's sum is multiplied by: NaN for an invalid row (it reads all bins), 0 for one that is left out.
  alignas(64) Real factor[chunk_rows];
  alignas(64) Real weight[chunk_rows];

  SURVCORE_INLINE ChunkRows(const Problem<Real>& problem, int64_t first, int rows) {
    const int64_t* time_bin = problem.time_bin + first;
    const HazardForm form = problem.form;
    const int32_t bins = problem.bins;
    const Real alpha = problem.alpha;
    alignas(64) int32_t event[chunk_rows];
    alignas(64) int32_t valid[chunk_rows];
    problem.event.read(first, rows, event);
    for (int row = 0; row < rows; ++row) weight[row] = problem.weights ? problem.weights[first + row] : Real(1);
#pragma omp simd
    for (int row = 0; row < rows; ++row) {
      valid[row] = hazard_row_valid(time_bin[row], event[row], bins) ? 1 : 0;
      const HazardRow bounds = hazard_row(time_bin[row], event[row], form);
      begin[row] = valid[row] ? bounds.begin : 0;
      end[row] = valid[row] ? bounds.end : bins;
      flipped[row] = bounds.flipped;
    }
#pragma omp simd
    for (int row = 0; row < rows; ++row) {
      const Real product = weight[row] * (Real(1) - alpha * Real(flipped[row] < 0));
      factor[row] = valid[row] ? product : std::numeric_limits<Real>::quiet_NaN();
    }
#pragma omp simd
    for (int row = 0; row < rows; ++row) factor[row] = weight[row] == Real(0) ? Real(0) : factor[row];
#pragma omp simd
    for (int row = 0; row < rows; ++row) end[row] = factor[row] == Real(0) ? 0 : end[row];
    for (int row = rows; row % lanes != 0; ++row) {
      begin[row] = end[row] = flipped[row] = 0;
      factor[row] = weight[row] = 0;
    }
  }

  // The last bin (exclusive) that a row of the tile reads.
  SURVCORE_INLINE int32_t tile_end(int tile) const {
    int32_t result = 0;
#pragma omp simd reduction(max : result)
    for (int lane = 0; lane < lanes; ++lane) result = std::max(result, end[tile + lane]);
    return result;
  }
};

// Weighted losses of rows [first, last): written to `losses` if not null; their sum and that of the weights to sums[0],
// sums[1].
template <class Real>
SURVCORE_INLINE void forward_rows(const Problem<Real>& problem, int64_t first, int64_t last, Real* losses,
                                  double* sums) {
  constexpr int lanes = RowTile<Real>::lanes;
  static_assert(RowTile<Real>::capacity <= SoftplusSum<Real>::capacity, "a tile's columns fit one product");
  const int rows = static_cast<int>(last - first);
  const ChunkRows<Real> chunk(problem, first, rows);
  RowTile<Real> logits;
  // The parts of each row's SoftplusSum.
  alignas(64) Real linear[chunk_rows] = {};
  alignas(64) Real product[chunk_rows] = {};
  for (int tile = 0; tile < rows; tile += lanes) {
    const int tile_rows = std::min(lanes, rows - tile);
    const int32_t* begin = chunk.begin + tile;
    const int32_t* end = chunk.end + tile;
    const int32_t* flipped = chunk.flipped + tile;
    const int32_t tile_end = chunk.tile_end(tile);
    for (int32_t start = 0; start < tile_end; start += RowTile<Real>::capacity) {
      const int columns = std::min<int32_t>(tile_end - start, RowTile<Real>::capacity);
      const Real* source = problem.logits + (first + tile) * problem.bins + start;
      logits.load(source, problem.bins, tile_rows, columns);
      RowTile<Real>::prefetch(source + lanes * problem.bins, problem.bins, columns);
      Real tile_linear[lanes] = {};
      Real tile_product[lanes] = {};
      for (int column = 0; column < columns; ++column) {
        const int32_t bin = start + column;
#pragma omp simd
        for (int lane = 0; lane < lanes; ++lane) {
          const Real x = logits.values[column][lane];
          SoftplusSum<Real> sum{tile_linear[lane], tile_product[lane]};
          sum.add(bin == flipped[lane] ? -x : x, (bin >= begin[lane]) & (bin < end[lane]));
          tile_linear[lane] = sum.linear;
          tile_product[lane] = sum.product_minus_one;
        }
      }
      const bool more_follow = start + columns < tile_end;
      for (int lane = 0; lane < lanes; ++lane) {
        linear[tile + lane] +=
            more_follow ? SoftplusSum<Real>{tile_linear[lane], tile_product[lane]}.value() : tile_linear[lane];
        product[tile + lane] = tile_product[lane];
      }
    }
  }
#pragma omp simd
  for (int row = 0; row < rows; ++row) {
    const Real loss = chunk.factor[row] * SoftplusSum<Real>{linear[row], product[row]}.value();
    linear[row] = chunk.factor[row] == Real(0) ? Real(0) : loss;
  }
  double loss_sum = 0;
  double weight_sum = 0;
#pragma omp simd reduction(+ : loss_sum, weight_sum)
  for (int row = 0; row < rows; ++row) {
    loss_sum += linear[row];
    weight_sum += chunk.weight[row];
  }
  sums[0] = loss_sum;
  sums[1] = weight_sum;
  if (losses) std::copy_n(linear, rows, losses + first);
}

// Gradient of rows [first, last): every element is written once. The loss's gradient is row_gradients[row] if that is
// not null, else `gradient` for all rows.
template <class Real>
SURVCORE_INLINE void backward_rows(const Problem<Real>& problem, int64_t first, int64_t last, const Real* row_gradients,
                                   Real gradient, Real* grad_logits) {
  constexpr int lanes = RowTile<Real>::lanes;
  const int rows = static_cast<int>(last - first);
  ChunkRows<Real> chunk(problem, first, rows);
  for (int row = 0; row < rows; ++row) chunk.factor[row] *= row_gradients ? row_gradients[first + row] : gradient;
  RowTile<Real> logits;
  for (int tile = 0; tile < rows; tile += lanes) {
    const int tile_rows = std::min(lanes, rows - tile);
    const int32_t* begin = chunk.begin + tile;
    const int32_t* end = chunk.end + tile;
    const int32_t* flipped = chunk.flipped + tile;
    const Real* factor = chunk.factor + tile;
    for (int32_t start = 0; start < problem.bins; start += RowTile<Real>::capacity) {
      const int columns = std::min<int32_t>(problem.bins - start, RowTile<Real>::capacity);
      const int64_t offset = (first + tile) * problem.bins + start;
      logits.load(problem.logits + offset, problem.bins, tile_rows, columns);
      RowTile<Real>::prefetch(problem.logits + offset + lanes * problem.bins, problem.bins, columns);
      for (int column = 0; column < columns; ++column) {
        const int32_t bin = start + column;
#pragma omp simd
        for (int lane = 0; lane < lanes; ++lane) {
          const bool active = (bin >= begin[lane]) & (bin < end[lane]);
          Real& value = logits.values[column][lane];
          value = hazard_gradient(value, factor[lane], bin == flipped[lane], active);
        }
      }
      logits.store(grad_logits + offset, problem.bins, tile_rows, columns);
    }
  }
}

// One definition for each type and instruction set.
#define SURVCORE_HAZARD_KERNELS(Real, bytes)                                                                   \
  SURVCORE_TARGET_##bytes void forward_chunk(VectorWidth<bytes>, const Problem<Real>& problem, int64_t begin,  \
                                             int64_t end, Real* losses, double* sums) {                        \
    forward_rows(problem, begin, end, losses, sums);                                                           \
  }                                                                                                            \
  SURVCORE_TARGET_##bytes void backward_chunk(VectorWidth<bytes>, const Problem<Real>& problem, int64_t begin, \
                                              int64_t end, const Real* row_gradients, Real gradient,           \
                                              Real* grad_logits) {                                             \
    backward_rows(problem, begin, end, row_gradients, gradient, grad_logits);                                  \
  }
SURVCORE_HAZARD_KERNELS(float, 64)
SURVCORE_HAZARD_KERNELS(float, 32)
SURVCORE_HAZARD_KERNELS(float, 16)
SURVCORE_HAZARD_KERNELS(double, 64)
SURVCORE_HAZARD_KERNELS(double, 32)
SURVCORE_HAZARD_KERNELS(double, 16)
#undef SURVCORE_HAZARD_KERNELS

template <class Real>
Problem<Real> problem_of(const HazardTensors& tensors, const HazardOptions& options) {
  return {static_cast<const Real*>(tensors.logits.const_data_ptr()),
          static_cast<const int64_t*>(tensors.time_bin.const_data_ptr()),
          tensors.event_codes(),
          tensors.weighted() ? static_cast<const Real*>(tensors.weights.const_data_ptr()) : nullptr,
          tensors.bins,
          options.form,
          static_cast<Real>(options.alpha)};
}

template <class Real>
std::tuple<Tensor, Tensor> forward(const HazardTensors& tensors, const HazardOptions& options) {
  const ScalarType type = tensors.logits.scalar_type();
  const bool per_row = options.reduction == Reduction::none;
  Tensor loss = per_row ? empty_on(tensors.logits, {tensors.rows}, type) : empty_on(tensors.logits, {}, type);
  Tensor divisor = empty_on(tensors.logits, {}, type);
  Real* losses = static_cast<Real*>(loss.mutable_data_ptr());
  std::vector<double> sums(2 * ((tensors.rows + chunk_rows - 1) / chunk_rows));
  const Problem<Real> problem = problem_of<Real>(tensors, options);
  for_each_chunk(tensors.rows, chunk_rows, tensors.bins, [&](int64_t chunk, int64_t begin, int64_t end) {
    with_vector_width(
        [&](auto width) { forward_chunk(width, problem, begin, end, per_row ? losses : nullptr, &sums[2 * chunk]); });
  });
  double loss_sum = 0;
  double weight_sum = 0;
  for (std::size_t chunk = 0; chunk < sums.size(); chunk += 2) {
    loss_sum += sums[chunk];
    weight_sum += sums[chunk + 1];
  }
  const double total = options.reduction == Reduction::mean ? hazard_divisor(weight_sum) : 1.0;
  if (!per_row) *losses = static_cast<Real>(loss_sum / total);
  *static_cast<Real*>(divisor.mutable_data_ptr()) = static_cast<Real>(total);
  return {loss, divisor};
}

template <class Real>
Tensor backward(const Tensor& grad_loss, const Tensor& divisor, const HazardTensors& tensors,
                const HazardOptions& options) {
  tensors.check_upstream(grad_loss, divisor, options);
  const ScalarType type = tensors.logits.scalar_type();
  const Tensor gradients = contiguous_as(grad_loss, type);
  const Tensor divisor_value = contiguous_as(divisor, type);
  const Real* gradient = static_cast<const Real*>(gradients.const_data_ptr());
  const bool per_row = options.reduction == Reduction::none;
  const Real divided = per_row ? Real(1) : *gradient / *static_cast<const Real*>(divisor_value.const_data_ptr());
  Tensor grad_logits = empty_on(tensors.logits, {tensors.rows, tensors.bins}, type);
  Real* output = static_cast<Real*>(grad_logits.mutable_data_ptr());
  const Problem<Real> problem = problem_of<Real>(tensors, options);
  for_each_chunk(tensors.rows, chunk_rows, tensors.bins, [&](int64_t, int64_t begin, int64_t end) {
    with_vector_width(
        [&](auto width) { backward_chunk(width, problem, begin, end, per_row ? gradient : nullptr, divided, output); });
  });
  return grad_logits;
}

std::tuple<Tensor, Tensor> discrete_hazard_nll(const Tensor& logits, const Tensor& time_bin, const Tensor& event,
                                               const Tensor& weights, std::string censored, std::string form,
                                               double alpha, std::string reduction) {
  const HazardOptions options(censored, form, alpha, reduction);
  const HazardTensors tensors(logits, time_bin, event, weights);
  return tensors.logits.scalar_type() == ScalarType::Double ? forward<double>(tensors, options)
                                                            : forward<float>(tensors, options);
}

Tensor discrete_hazard_nll_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& time_bin,
                                    const Tensor& event, const Tensor& weights, const Tensor& divisor,
                                    std::string censored, std::string form, double alpha, std::string reduction) {
  const HazardOptions options(censored, form, alpha, reduction);
  const HazardTensors tensors(logits, time_bin, event, weights);
  const Tensor grad_logits = tensors.logits.scalar_type() == ScalarType::Double
                                 ? backward<double>(grad_loss, divisor, tensors, options)
                                 : backward<float>(grad_loss, divisor, tensors, options);
  return contiguous_as(grad_logits, logits.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) {
  m.impl("discrete_hazard_nll", TORCH_BOX(&discrete_hazard_nll));
  m.impl("discrete_hazard_nll_backward", TORCH_BOX(&discrete_hazard_nll_backward));
}

}  // namespace survcore
