#include "brier.h"

#include <algorithm>
#include <type_traits>

#include "common/dispatch.h"

namespace survcore::metrics {

namespace {

template <class Real>
struct Curves {
  const Real* survival;
  std::size_t rows;
  std::size_t times;
  const std::int64_t* place;
  const double* weight;
  const double* control_weight;
};

template <class Real>
SURVCORE_INLINE bool is_probability(Real value) {
  return (value >= Real(0)) & (value <= Real(1));
}

// Flags in lanes of the values' own width, so that the loop is vectorised.
template <class Real>
SURVCORE_INLINE bool all_probabilities(const Real* values, std::size_t count) {
  using Flag = std::conditional_t<sizeof(Real) == 8, std::int64_t, std::int32_t>;
  Flag wrong = 0;
#pragma omp simd reduction(| : wrong)
  for (std::size_t i = 0; i < count; ++i) wrong |= is_probability(values[i]) ? Flag(0) : Flag(1);
  return wrong == 0;
}

template <class Real>
std::size_t first_wrong(const Real* values) {
  std::size_t i = 0;
  while (is_probability(values[i])) ++i;
  return i;
}

template <class Real>
SURVCORE_INLINE std::int64_t sums_by_row(const Curves<Real>& curves, double* __restrict__ sums) {
  const double* __restrict__ control_weight = curves.control_weight;
  const std::size_t times = curves.times;
  for (std::size_t row = 0; row < curves.rows; ++row) {
    const Real* __restrict__ survival = curves.survival + row * times;
    if (!all_probabilities(survival, times)) return static_cast<std::int64_t>(row * times + first_wrong(survival));
    const auto place = static_cast<std::size_t>(curves.place[row]);
#pragma omp simd
    for (std::size_t j = 0; j < place; ++j) {
      const double missing = 1.0 - static_cast<double>(survival[j]);
      sums[j] += control_weight[j] * (missing * missing);
    }
    const double weight = curves.weight[row];
    if (weight == 0) continue;
#pragma omp simd
    for (std::size_t j = place; j < times; ++j) {
      const double remaining = survival[j];
      sums[j] += weight * (remaining * remaining);
    }
  }
  return -1;
}

template <class Real>
SURVCORE_INLINE std::int64_t sums_by_time(const Curves<Real>& curves, double* __restrict__ sums) {
  const std::size_t rows = curves.rows;
  const std::int64_t* __restrict__ place = curves.place;
  const double* __restrict__ weight = curves.weight;
  for (std::size_t time = 0; time < curves.times; ++time) {
    const Real* __restrict__ survival = curves.survival + time * rows;
    if (!all_probabilities(survival, rows)) {
      return static_cast<std::int64_t>(first_wrong(survival) * curves.times + time);
    }
    const double control_weight = curves.control_weight[time];
    const auto now = static_cast<std::int64_t>(time);
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::size_t row = 0; row < rows; ++row) {
      const double remaining = survival[row];
      const bool control = place[row] > now;
      const double factor = control ? control_weight : weight[row];
      const double distance = control ? 1.0 - remaining : remaining;
      sum += factor * (distance * distance);
    }
    sums[time] = sum;
  }
  return -1;
}

template <class Real>
SURVCORE_INLINE std::int64_t sums_of(const Curves<Real>& curves, bool by_time, double* sums) {
  return by_time ? sums_by_time(curves, sums) : sums_by_row(curves, sums);
}

template <class Real>
SURVCORE_TARGET_64 std::int64_t run(VectorWidth<64>, const Curves<Real>& curves, bool by_time, double* sums) {
  return sums_of(curves, by_time, sums);
}

template <class Real>
SURVCORE_TARGET_32 std::int64_t run(VectorWidth<32>, const Curves<Real>& curves, bool by_time, double* sums) {
  return sums_of(curves, by_time, sums);
}

template <class Real>
SURVCORE_TARGET_16 std::int64_t run(VectorWidth<16>, const Curves<Real>& curves, bool by_time, double* sums) {
  return sums_of(curves, by_time, sums);
}

}  // namespace

template <class Real>
std::int64_t brier_sums(const Real* survival, std::size_t rows, std::size_t times, bool by_time,
                        const std::int64_t* place, const double* weight, const double* control_weight, double* sums) {
  std::fill_n(sums, times, 0.0);
  const Curves<Real> curves{survival, rows, times, place, weight, control_weight};
  std::int64_t wrong = -1;
  with_vector_width([&](auto width) { wrong = run(width, curves, by_time, sums); });
  return wrong;
}

template std::int64_t brier_sums(const float*, std::size_t, std::size_t, bool, const std::int64_t*, const double*,
                                 const double*, double*);
template std::int64_t brier_sums(const double*, std::size_t, std::size_t, bool, const std::int64_t*, const double*,
                                 const double*, double*);

}  // namespace survcore::metrics
