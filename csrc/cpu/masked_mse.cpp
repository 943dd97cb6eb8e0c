// CPU kernels of masked_mse: one pass over the marks to count (common/masked_groups.h), one over the patches that count
// for loss and gradient, whose scale is then known. Of other patches only the gradient is written.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "common/masked_groups.h"
#include "common/scaled_gradient.h"
#include "common/tensors.h"

namespace survcore {
namespace {

// One call's data; an entry of the groups is a patch.
template <class Real>
struct Problem {
  const MaskedGroups& groups;
  const Real* prediction;  // [rows, patches, length]
  const Real* target;      // likewise
  int64_t length;
  Real* gradient;  // as prediction, or null
  Real scale;      // of the gradient
};

// Sum of the squared differences of rows [first, last).
template <class Real>
SURVCORE_INLINE double loss_of_rows(const Problem<Real>& problem, int64_t first, int64_t last) {
  const int64_t patches = problem.groups.columns, length = problem.length;
  MarkBuffers buffers(patches);
  double total = 0;
  for (int64_t row = first; row < last; ++row) {
    const uint8_t* counted = problem.groups.counted(0, row, buffers);
    for (int64_t patch = 0; patch < patches; ++patch) {
      const int64_t offset = (row * patches + patch) * length;
      Real* gradient = problem.gradient ? problem.gradient + offset : nullptr;
      if (counted[patch] == 0) {
        if (gradient) std::fill_n(gradient, length, Real(0));
        continue;
      }
      const Real* prediction = problem.prediction + offset;
      const Real* target = problem.target + offset;
      const Real scale = problem.scale;
      Real sum = 0;
      if (gradient) {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < length; ++i) {
          const Real difference = prediction[i] - target[i];
          sum += difference * difference;
          gradient[i] = scale * difference;
        }
      } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < length; ++i) {
          const Real difference = prediction[i] - target[i];
          sum += difference * difference;
        }
      }
      total += static_cast<double>(sum);
    }
  }
  return total;
}

// One definition for each instruction set.
#define SURVCORE_MASKED_MSE_KERNEL(bytes)                                                                     \
  template <class Real>                                                                                       \
  SURVCORE_TARGET_##bytes void loss_of_chunk(VectorWidth<bytes>, const Problem<Real>& problem, int64_t first, \
                                             int64_t last, double* sum) {                                     \
    *sum = loss_of_rows(problem, first, last);                                                                \
  }
SURVCORE_MASKED_MSE_KERNEL(64)
SURVCORE_MASKED_MSE_KERNEL(32)
SURVCORE_MASKED_MSE_KERNEL(16)
#undef SURVCORE_MASKED_MSE_KERNEL

template <class Real>
std::tuple<Tensor, Tensor> forward(const Tensor& prediction, const Tensor& target, const MaskedGroups& groups,
                                   bool with_gradient) {
  const ScalarType type = prediction.scalar_type();
  const int64_t length = prediction.size(2);
  // Nothing to average is 0, and so is the mean of no values.
  const double divisor =
      static_cast<double>(std::max<int64_t>(1, groups.counts()[0])) * static_cast<double>(std::max<int64_t>(1, length));
  Tensor gradient = with_gradient ? empty_on(prediction, {groups.rows, groups.columns, length}, type)
                                  : empty_on(prediction, {0}, type);
  const Problem<Real> problem{groups,
                              static_cast<const Real*>(prediction.const_data_ptr()),
                              static_cast<const Real*>(target.const_data_ptr()),
                              length,
                              with_gradient ? static_cast<Real*>(gradient.mutable_data_ptr()) : nullptr,
                              static_cast<Real>(2 / divisor)};
  std::vector<double> sums(groups.chunks_of_view(length));
  groups.for_each_chunk_of_rows(length, [&](int64_t chunk, int64_t, int64_t first, int64_t last) {
    with_vector_width([&](auto width) { loss_of_chunk(width, problem, first, last, &sums[chunk]); });
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  Tensor loss = empty_on(prediction, {}, type);
  *static_cast<Real*>(loss.mutable_data_ptr()) = static_cast<Real>(total / divisor);
  return {loss, gradient};
}

std::tuple<Tensor, Tensor> masked_mse(const Tensor& prediction_, const Tensor& target_, const Tensor& mask,
                                      const Tensor& observed, std::string positions, bool with_gradient) {
  check_device("target", target_, "prediction", prediction_);
  check_device("mask", mask, "prediction", prediction_);
  check_device("observed", observed, "prediction", prediction_);
  const ScalarType type = compute_type(prediction_);
  const Tensor prediction = contiguous_as(prediction_, type), target = contiguous_as(target_, type);
  STD_TORCH_CHECK(prediction.dim() == 3, "prediction must be [rows, patches, length], got ", prediction.dim(),
                  " dimensions");
  STD_TORCH_CHECK(target.dim() == 3 && target.size(0) == prediction.size(0) && target.size(1) == prediction.size(1) &&
                      target.size(2) == prediction.size(2),
                  "target must have the shape of the prediction");
  const MaskedGroups groups(1, prediction.size(0), prediction.size(1), empty_on(prediction, {0}, ScalarType::Long),
                            positions, mask, observed);
  return type == ScalarType::Double ? forward<double>(prediction, target, groups, with_gradient)
                                    : forward<float>(prediction, target, groups, with_gradient);
}

Tensor masked_mse_backward(const Tensor& grad_loss, const Tensor& gradient) {
  return scaled_gradient(grad_loss, gradient);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) {
  m.impl("masked_mse", TORCH_BOX(&masked_mse));
  m.impl("masked_mse_backward", TORCH_BOX(&masked_mse_backward));
}

}  // namespace survcore
