// Sorting rows by a float64 value as a sort of plain 64-bit words, which NumPy does in vector registers: a word is the
// leading 32 bits of the value's place in the range above the row's number.
#pragma once

#include <cstddef>
#include <cstdint>

namespace survcore::metrics {

// words: [count]; values: [count] from smallest to largest, without NaN, count < 2^32.
void pack_order(const double* values, std::size_t count, double smallest, double largest, std::uint64_t* words);

// Orders rows whose leading bits agree and whose values do not; they are few unless the values crowd at one end of
// their range.
void finish_order(const double* values, std::size_t count, std::uint64_t* sorted_words);

inline std::uint32_t row_of(std::uint64_t word) { return static_cast<std::uint32_t>(word); }

// Whether two rows share their value. The words alone tell nearly all differences without a look at the values.
inline bool same_value(const double* values, std::uint64_t a, std::uint64_t b) {
  return a >> 32 == b >> 32 && values[row_of(a)] == values[row_of(b)];
}

}  // namespace survcore::metrics
