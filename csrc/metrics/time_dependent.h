// Concordance of survival curves at the event times, for the pairs whose times lie in different intervals of the grid.
#pragma once

#include <cstddef>
#include <cstdint>

namespace survcore::metrics {

struct CurvePairs {
  std::int64_t concordant = 0;
  std::int64_t discordant = 0;
  std::int64_t tied_risk = 0;
};

// survival: [count, intervals] without NaN, the values of the curves on intervals 0, 1, ..; interval: [count], the one
// that a row's time lies in, -1 before the first, where every curve is 1; event: [count].
// An event is compared with each row of a later interval, by their curves on the event's own interval: concordant where
// the event's is lower. O(count x intervals x log(events per interval)) time, O(count) memory.
CurvePairs compare_across_intervals(const double* survival, const std::int32_t* interval, const bool* event,
                                    std::size_t count, std::size_t intervals);

}  // namespace survcore::metrics
