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
// words: [count], sorted; entries: [count], rising, or null where all rows are at risk from the start; a row is at risk
// after its entry. The outputs: [distinct_times].
void kaplan_meier(const std::uint64_t* words, const double* entries, std::size_t count, double* times, double* survival,
                  std::int64_t* at_risk, std::int64_t* events);

// Rows with weights, in the order of their times.
struct WeightedRows {
  const double* time;  // [count], rising
  const bool* event;
  const double* weight;            // above 0, their sum finite
  const double* entry;             // [count], rising, or null where all rows are at risk from the start
  const std::uint32_t* entry_row;  // [count], the row of each entry, by its place in the order of the times
  std::size_t count;
};

// Number of distinct times among rising ones.
std::size_t distinct_times(const double* time, std::size_t count);

// As kaplan_meier, with sums of weights in the place of counts. O(n), with entries O(n log n).
void weighted_kaplan_meier(const WeightedRows& rows, double* times, double* survival, double* at_risk, double* events);

}  // namespace survcore::metrics
