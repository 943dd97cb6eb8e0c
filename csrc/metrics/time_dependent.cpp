#include "time_dependent.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace survcore::metrics {

namespace {

// The events' survival on their own intervals, interval by interval in increasing order, with infinity behind each
// interval's, so that a search always ends at a value.
struct EventValues {
  std::vector<double> values;
  std::vector<std::size_t> begins;  // [intervals + 1]
};

EventValues event_values(const double* survival, const std::int32_t* interval, const bool* event, std::size_t count,
                         std::size_t intervals) {
  EventValues result;
  result.begins.assign(intervals + 1, 0);
  for (std::size_t row = 0; row < count; ++row) {
    if (event[row] && interval[row] >= 0) ++result.begins[interval[row] + 1];
  }
  for (std::size_t k = 0; k < intervals; ++k) result.begins[k + 1] += result.begins[k] + 1;
  result.values.assign(result.begins[intervals], std::numeric_limits<double>::infinity());
  std::vector<std::size_t> free(result.begins.begin(), result.begins.end() - 1);
  for (std::size_t row = 0; row < count; ++row) {
    if (event[row] && interval[row] >= 0) {
      result.values[free[interval[row]]++] = survival[row * intervals + interval[row]];
    }
  }
  for (std::size_t k = 0; k < intervals; ++k) {
    std::sort(result.values.begin() + result.begins[k], result.values.begin() + result.begins[k + 1] - 1);
  }
  return result;
}

// How many of the sorted values are smaller; without a branch that depends on them.
std::size_t count_smaller(const double* values, std::size_t count, double value) {
  const double* first = values;
  while (count > 1) {
    const std::size_t half = count / 2;
    first += first[half - 1] < value ? half : 0;
    count -= half;
  }
  return static_cast<std::size_t>(first - values) + (count == 1 && *first < value);
}

}  // namespace

CurvePairs compare_across_intervals(const double* survival, const std::int32_t* interval, const bool* event,
                                    std::size_t count, std::size_t intervals) {
  const EventValues events = event_values(survival, interval, event, count, intervals);

  // Per event value: rows whose curve lies on it, and rows whose curve lies between it and the value before.
  struct Found {
    std::uint32_t between = 0;
    std::uint32_t on = 0;
  };
  std::vector<Found> found(events.values.size());
  std::int64_t early_events = 0, later_rows = 0;  // before the grid and on it
  for (std::size_t row = 0; row < count; ++row) {
    if (interval[row] < 0) {
      early_events += event[row];
      continue;
    }
    ++later_rows;
    const double* curve = survival + row * intervals;
    for (std::int32_t k = 0; k < interval[row]; ++k) {
      const std::size_t begin = events.begins[k], length = events.begins[k + 1] - begin - 1;
      if (length == 0) continue;
      const std::size_t place = begin + count_smaller(&events.values[begin], length, curve[k]);
      const bool on = events.values[place] == curve[k];
      found[place].on += on;
      found[place].between += !on;
    }
  }

  CurvePairs pairs;
  pairs.tied_risk = early_events * later_rows;
  for (std::size_t k = 0; k < intervals; ++k) {
    std::int64_t all = 0;
    for (std::size_t i = events.begins[k]; i < events.begins[k + 1]; ++i) all += found[i].between + found[i].on;
    // Equal events were all found at the first of them.
    std::int64_t lower = 0, on = 0;
    for (std::size_t i = events.begins[k]; i + 1 < events.begins[k + 1]; ++i) {
      if (i == events.begins[k] || events.values[i] != events.values[i - 1]) {
        lower += on + found[i].between;
        on = found[i].on;
      }
      pairs.discordant += lower;
      pairs.tied_risk += on;
      pairs.concordant += all - lower - on;
    }
  }
  return pairs;
}

}  // namespace survcore::metrics
