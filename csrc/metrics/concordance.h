// Harrell's concordance: counts of pairs and the variance of the index, as the R package survival defines them.
#pragma once

#include <cstdint>

#include "line_up.h"

namespace survcore::metrics {

// Number is int64_t, or double where pairs have weights.
template <typename Number>
struct ConcordanceCounts {
  Number concordant = 0;
  Number discordant = 0;
  Number tied_risk = 0;
  Number tied_time = 0;
  Number tied_both = 0;
};

// O(n log n), a single pass over the rows by decreasing time. Exact without weights.
ConcordanceCounts<std::int64_t> count_pairs(const LineUp& rows);
ConcordanceCounts<double> weigh_pairs(const LineUp& rows);

// The infinitesimal jackknife: the sum over rows of the squared derivative of the index with respect to the row's
// weight, times that weight; weights of events are taken as given. NaN without comparable pairs. O(n log n).
double concordance_variance(const LineUp& rows);

}  // namespace survcore::metrics
