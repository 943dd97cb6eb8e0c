// Harrell's concordance: counts of pairs as the R package survival defines them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace survcore::metrics {

struct ConcordanceCounts {
  std::int64_t concordant = 0;
  std::int64_t discordant = 0;
  std::int64_t tied_risk = 0;
  std::int64_t tied_time = 0;
  std::int64_t tied_both = 0;
};

// time, risk: [count] without NaN; event: [count]; time_order, risk_order: [count] words of order.h, sorted; risk_order
// is overwritten. O(n log n), a single pass over the rows by decreasing time.
ConcordanceCounts concordance_counts(const double* time, const bool* event, const double* risk,
                                     const std::uint64_t* time_order, std::uint64_t* risk_order, std::size_t count);

}  // namespace survcore::metrics
