// Places of many values in a sorted table, as numpy.searchsorted gives them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace survcore::metrics {

// places: [count], how many of the table's values are smaller than each query, or not larger where `inclusive`.
// table: [size], rising; a NaN among the queries gets any place.
void search(const double* table, std::size_t size, const double* queries, std::size_t count, bool inclusive,
            std::int64_t* places);

}  // namespace survcore::metrics
