#include "search.h"

#include <algorithm>

namespace survcore::metrics {

namespace {

// Queries that halve the table together, so that the processor waits for their loads at the same time.
constexpr std::size_t together = 8;

template <bool inclusive>
void search_some(const double* table, std::size_t size, const double* queries, std::size_t count,
                 std::int64_t* places) {
  double query[together];
  std::size_t place[together];
  for (std::size_t i = 0; i < together; ++i) {
    query[i] = queries[std::min(i, count - 1)];
    place[i] = 0;
  }
  for (std::size_t length = size; length > 0;) {
    const std::size_t half = length - length / 2;
    for (std::size_t i = 0; i < together; ++i) {
      const double value = table[place[i] + half - 1];
      place[i] += (inclusive ? value <= query[i] : value < query[i]) ? half : 0;
    }
    length -= half;
  }
  for (std::size_t i = 0; i < count; ++i) places[i] = static_cast<std::int64_t>(place[i]);
}

}  // namespace

void search(const double* table, std::size_t size, const double* queries, std::size_t count, bool inclusive,
            std::int64_t* places) {
  for (std::size_t first = 0; first < count; first += together) {
    const std::size_t some = std::min(together, count - first);
    if (inclusive) {
      search_some<true>(table, size, queries + first, some, places + first);
    } else {
      search_some<false>(table, size, queries + first, some, places + first);
    }
  }
}

}  // namespace survcore::metrics
