// CPU kernels of discrete_hazard_nll: one pass over the logits, for the loss, for its gradient or for both. The common
// loss, a mean or sum over rows that count alike, takes the stream (common/hazard_stream.h), every other one the tiles
// (common/hazard_tiles.h). The mathematics is core/hazard.h, shared with the CUDA kernel.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "common/hazard_arguments.h"
#include "common/hazard_problem.h"
#include "common/hazard_stream.h"
#include "common/hazard_tiles.h"
#include "common/parallel.h"
#include "common/tensors.h"
#include "core/hazard.h"

namespace survcore {
namespace {

// One definition for each type and instruction set; a null output asks for no gradient.
#define SURVCORE_HAZARD_KERNELS(Real, bytes)                                                                        \
  SURVCORE_TARGET_##bytes double tiles_chunk(VectorWidth<bytes>, const HazardProblem<Real>& problem, int64_t begin, \
                                             int64_t end, Real* losses, HazardGradient<Real> gradient) {            \
    return gradient.output ? hazard_tiles<true>(problem, begin, end, losses, gradient)                              \
                           : hazard_tiles<false>(problem, begin, end, losses, gradient);                            \
  }                                                                                                                 \
  SURVCORE_TARGET_##bytes double stream_chunk(const HazardPattern<Real, bytes>& pattern,                            \
                                              const HazardProblem<Real>& problem, int64_t begin, int64_t end,       \
                                              HazardGradient<Real> gradient) {                                      \
    return gradient.output ? hazard_stream<true>(pattern, problem, begin, end, gradient.factor, gradient.output)    \
                           : hazard_stream<false>(pattern, problem, begin, end, gradient.factor, gradient.output);  \
  }
SURVCORE_HAZARD_KERNELS(float, 64)
SURVCORE_HAZARD_KERNELS(float, 32)
SURVCORE_HAZARD_KERNELS(float, 16)
SURVCORE_HAZARD_KERNELS(double, 64)
SURVCORE_HAZARD_KERNELS(double, 32)
SURVCORE_HAZARD_KERNELS(double, 16)
#undef SURVCORE_HAZARD_KERNELS

// Sum of part(begin, end) over the chunks of [0, rows), added in their order.
template <class Part>
double sum_of_chunks(int64_t rows, int64_t work, const Part& part) {
  if (rows <= hazard_chunk_rows) return rows ? part(int64_t(0), rows) : 0.0;
  std::vector<double> sums((rows + hazard_chunk_rows - 1) / hazard_chunk_rows);
  for_each_chunk(rows, hazard_chunk_rows, work,
                 [&](int64_t chunk, int64_t begin, int64_t end) { sums[chunk] = part(begin, end); });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// Sum of the rows' losses; each of them to `losses`, unless that is null.
template <class Real>
double run(const HazardProblem<Real>& problem, int64_t rows, Real* losses, HazardGradient<Real> gradient) {
  double total = 0;
  with_vector_width([&]<int bytes>(VectorWidth<bytes> width) {
    using Pattern = HazardPattern<Real, bytes>;
    if (problem.uniform() && !losses && !gradient.rows && problem.bins <= Pattern::most_bins) {
      const Pattern pattern(problem.bins);
      total = sum_of_chunks(rows, problem.bins, [&](int64_t begin, int64_t end) {
        return stream_chunk(pattern, problem, begin, end, gradient);
      });
    } else {
      total = sum_of_chunks(rows, problem.bins, [&](int64_t begin, int64_t end) {
        return tiles_chunk(width, problem, begin, end, losses, gradient);
      });
    }
  });
  return total;
}

// What the sum over the rows is divided by.
template <class Real>
double divisor_of(const HazardProblem<Real>& problem, int64_t rows, Reduction reduction) {
  if (reduction != Reduction::mean) return 1.0;
  if (!problem.weights) return hazard_divisor(static_cast<double>(rows));
  return hazard_divisor(sum_of_chunks(rows, 1, [&](int64_t begin, int64_t end) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t row = begin; row < end; ++row) sum += problem.weights[row];
    return sum;
  }));
}

template <class Real>
std::tuple<Tensor, Tensor, Tensor> forward(const HazardTensors& tensors, const HazardOptions& options,
                                           bool with_gradient) {
  const ScalarType type = tensors.logits.scalar_type();
  const bool per_row = options.reduction == Reduction::none;
  Tensor loss = per_row ? empty_on(tensors.logits, {tensors.rows}, type) : empty_on(tensors.logits, {}, type);
  Tensor divisor = empty_on(tensors.logits, {}, type);
  Tensor gradient = empty_on(tensors.logits, {with_gradient ? tensors.rows : 0, tensors.bins}, type);
  Real* losses = static_cast<Real*>(loss.mutable_data_ptr());
  const HazardProblem<Real> problem(tensors, options);
  const double total = divisor_of(problem, tensors.rows, options.reduction);
  const Real factor = Real(1) / static_cast<Real>(total);
  Real* output = with_gradient ? static_cast<Real*>(gradient.mutable_data_ptr()) : nullptr;
  const double sum =
      run(problem, tensors.rows, per_row ? losses : nullptr, HazardGradient<Real>{output, factor, nullptr});
  if (!per_row) *losses = static_cast<Real>(sum / total);
  *static_cast<Real*>(divisor.mutable_data_ptr()) = static_cast<Real>(total);
  return {loss, divisor, gradient};
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
  const Real factor = per_row ? Real(1) : *gradient / *static_cast<const Real*>(divisor_value.const_data_ptr());
  Tensor grad_logits = empty_on(tensors.logits, {tensors.rows, tensors.bins}, type);
  Real* output = static_cast<Real*>(grad_logits.mutable_data_ptr());
  run(HazardProblem<Real>(tensors, options), tensors.rows, static_cast<Real*>(nullptr),
      HazardGradient<Real>{output, factor, per_row ? gradient : nullptr});
  return grad_logits;
}

std::tuple<Tensor, Tensor, Tensor> discrete_hazard_nll(const Tensor& logits, const Tensor& time_bin,
                                                       const Tensor& event, const Tensor& weights, std::string censored,
                                                       std::string form, double alpha, std::string reduction,
                                                       bool with_gradient) {
  const HazardOptions options(censored, form, alpha, reduction);
  const HazardTensors tensors(logits, time_bin, event, weights);
  return tensors.logits.scalar_type() == ScalarType::Double ? forward<double>(tensors, options, with_gradient)
                                                            : forward<float>(tensors, options, with_gradient);
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
