// Brier scores of survival curves at many times, in one pass over the curves.
#pragma once

#include <cstddef>
#include <cstdint>

namespace survcore::metrics {

// Sums over the rows, per time j: control_weight[j] (1 - S)^2 of the rows still under observation, those with
// place > j, and weight S^2 of the others.
//
// survival: rows x times, the times of a row next to each other, or the rows of a time where `by_time`; place: [rows];
// weight: [rows], 0 for a row that was censored; control_weight: [times]; sums: [times], written.
// Returns -1, or row * times + time of a survival that is not in [0, 1]; the sums are then incomplete.
template <class Real>
std::int64_t brier_sums(const Real* survival, std::size_t rows, std::size_t times, bool by_time,
                        const std::int64_t* place, const double* weight, const double* control_weight, double* sums);

}  // namespace survcore::metrics
