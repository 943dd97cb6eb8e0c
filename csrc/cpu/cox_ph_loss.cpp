// CPU kernels of cox_ph_loss: where log-hazards lie close together in chunks (common/cox_chunks.h), with late entries
// through sums over intervals (common/cox_late_entry.h), else one row after the other (common/cox_serial.h).
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>

#include "common/cox_arguments.h"
#include "common/cox_chunks.h"
#include "common/cox_late_entry.h"
#include "common/cox_serial.h"
#include "common/dispatch.h"
#include "common/scaled_gradient.h"
#include "common/tensors.h"

namespace survcore {
namespace {

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

// Of weights: whether all are finite and at least 0, the smallest that is not 0, and the largest.
template <class Real>
struct Weights {
  Real smallest;
  Real largest;
  bool valid;
};

// Floating numbers of at least 0 order as their bits do; one less puts 0 behind all others.
template <class Real>
SURVCORE_INLINE void find_weights(const Real* values, int64_t rows, Weights<Real>& weights) {
  using Bits = std::conditional_t<sizeof(Real) == sizeof(float), uint32_t, uint64_t>;
  constexpr Bits largest_finite = std::bit_cast<Bits>(std::numeric_limits<Real>::max());
  Bits smallest = std::numeric_limits<Bits>::max();
  Bits largest = 0;
#pragma omp simd reduction(min : smallest) reduction(max : largest)
  for (int64_t row = 0; row < rows; ++row) {
    const Bits bits = std::bit_cast<Bits>(values[row] + Real(0));  // -0 becomes 0; what is negative is beyond infinity
    smallest = bits - 1 < smallest ? bits - 1 : smallest;
    largest = bits > largest ? bits : largest;
  }
  weights = {std::bit_cast<Real>(static_cast<Bits>(smallest + 1)), std::bit_cast<Real>(largest),
             largest <= largest_finite};
}

#define SURVCORE_WEIGHTS_KERNEL(Real, bytes)                                                    \
  SURVCORE_TARGET_##bytes void weights_of(VectorWidth<bytes>, const Real* values, int64_t rows, \
                                          Weights<Real>& weights) {                             \
    find_weights(values, rows, weights);                                                        \
  }
SURVCORE_WEIGHTS_KERNEL(float, 64)
SURVCORE_WEIGHTS_KERNEL(float, 32)
SURVCORE_WEIGHTS_KERNEL(float, 16)
SURVCORE_WEIGHTS_KERNEL(double, 64)
SURVCORE_WEIGHTS_KERNEL(double, 32)
SURVCORE_WEIGHTS_KERNEL(double, 16)
#undef SURVCORE_WEIGHTS_KERNEL

// The sums that hold relative hazards, their products with the weights, and quotients of both.
enum class Sums { in_float, in_double, as_pairs };

template <class Real>
Sums sums_for(const Range<Real>& log_hazards, const Weights<Real>& weights) {
  const double span = static_cast<double>(log_hazards.largest) - static_cast<double>(log_hazards.smallest);
  if (!log_hazards.finite || !(span < 600)) return Sums::as_pairs;
  if (sizeof(Real) == sizeof(float) && span < 16 && weights.smallest >= Real(1e-6) && weights.largest <= Real(1e6)) {
    return Sums::in_float;
  }
  const double small = std::log(static_cast<double>(weights.smallest));
  const double large = std::log(static_cast<double>(weights.largest));
  return small > -40 && large < 40 ? Sums::in_double : Sums::as_pairs;
}

template <class Real>
std::tuple<Tensor, Tensor> forward(const CoxArguments& arguments, bool mean, bool with_gradient) {
  const CoxProblem<Real> problem = arguments.problem<Real>();
  const int64_t rows = problem.rows;
  Tensor loss = empty_on(arguments.log_hazard, {}, arguments.type);
  Tensor gradient = empty_on(arguments.log_hazard, {with_gradient ? rows : 0}, arguments.type);
  Real* gradients = with_gradient ? static_cast<Real*>(gradient.mutable_data_ptr()) : nullptr;

  double value = 0;
  if (rows > 0) {
    Range<Real> range;
    with_vector_width([&](auto width) { range_of(width, problem.log_hazard, rows, range); });
    Weights<Real> weights{1, 1, true};
    if (problem.weights) {
      with_vector_width([&](auto width) { weights_of(width, problem.weights, rows, weights); });
      STD_TORCH_CHECK(weights.valid, "weights must be finite and at least 0");
    }
    const Sums sums = sums_for(range, weights);
    if (sums == Sums::as_pairs) {
      value = serial_loss<PairSum>(problem, 0, mean, gradients);
      // Infinite relative hazards cannot be compared.
      constexpr Real infinity = std::numeric_limits<Real>::infinity();
      if (!std::all_of(problem.log_hazard, problem.log_hazard + rows, [](Real x) { return x < infinity; })) {
        value = std::numeric_limits<double>::quiet_NaN();
        if (gradients) std::fill_n(gradients, rows, std::numeric_limits<Real>::quiet_NaN());
      }
    } else if (problem.has(cox_truncated)) {
      value = late_entry_loss(problem, range.largest, mean, gradients);
    } else if (sums == Sums::in_float) {
      value = chunked_loss<Real>(problem, range.largest, mean, gradients);
    } else {
      value = chunked_loss<double>(problem, range.largest, mean, gradients);
    }
  }
  *static_cast<Real*>(loss.mutable_data_ptr()) = static_cast<Real>(value);
  return {loss, gradient};
}

std::tuple<Tensor, Tensor> cox_ph_loss(const Tensor& log_hazard, const Tensor& risk_sets, const Tensor& weights,
                                       std::string ties, std::string reduction, bool gradient) {
  STD_TORCH_CHECK(reduction == "mean" || reduction == "sum", "reduction must be 'mean' or 'sum', got '", reduction,
                  "'");
  const CoxArguments arguments(log_hazard, risk_sets, weights, ties);
  return arguments.type == ScalarType::Double ? forward<double>(arguments, reduction == "mean", gradient)
                                              : forward<float>(arguments, reduction == "mean", gradient);
}

Tensor cox_ph_loss_backward(const Tensor& grad_loss, const Tensor& gradient) {
  return scaled_gradient(grad_loss, gradient);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) {
  m.impl("cox_ph_loss", TORCH_BOX(&cox_ph_loss));
  m.impl("cox_ph_loss_backward", TORCH_BOX(&cox_ph_loss_backward));
}

}  // namespace survcore
