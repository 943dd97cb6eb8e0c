// Areas under the cumulative/dynamic ROC curves of one risk at many times, in one pass over the rows by risk.
#pragma once

#include <cstddef>
#include <cstdint>

namespace survcore::metrics {

// Per time j the sum over its cases of weight x (controls of lower risk + half of those of equal risk), doubled.
// A row is a control at the times j < place and, with its weight, a case at the others.
//
// risk: [count] without NaN; order: [count] words of order.h, sorted and finished; place: [count], from 0 to times;
// weight: [count], 0 for a row that is never a case; sums: [times], written. O(count x times).
void auc_sums(const double* risk, const std::uint64_t* order, std::size_t count, const std::int64_t* place,
              const double* weight, std::size_t times, double* sums);

}  // namespace survcore::metrics
