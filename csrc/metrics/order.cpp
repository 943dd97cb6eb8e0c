#include "order.h"

#include <algorithm>
#include <bit>

namespace survcore::metrics {

namespace {

// An unsigned integer in the order of the value; -0 and +0 are one value.
std::uint64_t ordered_bits(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value + 0.0);
  const std::uint64_t sign = std::uint64_t{1} << 63;
  return (bits & sign) ? ~bits : bits | sign;
}

}  // namespace

void pack_order(const double* values, std::size_t count, double smallest, double largest, std::uint64_t* words) {
  const std::uint64_t lowest = ordered_bits(smallest);
  const int dropped = std::max(0, static_cast<int>(std::bit_width(ordered_bits(largest) - lowest)) - 32);
  for (std::size_t row = 0; row < count; ++row) {
    words[row] = ((ordered_bits(values[row]) - lowest) >> dropped) << 32 | row;
  }
}

void finish_order(const double* values, std::size_t count, std::uint64_t* words) {
  const auto smaller = [values](std::uint64_t a, std::uint64_t b) { return values[row_of(a)] < values[row_of(b)]; };
  for (std::size_t first = 0, last; first < count; first = last) {
    for (last = first + 1; last < count && words[last] >> 32 == words[first] >> 32; ++last) {
    }
    if (last - first > 1 && !std::is_sorted(words + first, words + last, smaller)) {
      std::sort(words + first, words + last, smaller);
    }
  }
}

}  // namespace survcore::metrics
