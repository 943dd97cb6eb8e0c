// Kaplan-Meier's product-limit estimate over rows packed into words: the bits of the time above the event.
#pragma once

#include <cstddef>
#include <cstdint>

namespace survcore::metrics {

// time: [count], non-negative, finite; event: [count]; words: [count]. Returns how many words stand in front, all of
// them smaller than the words behind (roughly half of them): the two parts can be sorted independently.
std::size_t pack_times(const double* time, const bool* event, std::size_t count, std::uint64_t* words);

// Number of distinct times among sorted words.
std::size_t distinct_times(const std::uint64_t* words, std::size_t count);

// Per distinct time, in increasing order: the time, survival after it, rows at risk just before it, events at it.
// words: [count], sorted; the outputs: [distinct_times].
void kaplan_meier(const std::uint64_t* words, std::size_t count, double* times, double* survival, std::int64_t* at_risk,
                  std::int64_t* events);

}  // namespace survcore::metrics
