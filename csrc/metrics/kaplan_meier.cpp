#include "kaplan_meier.h"

#include <algorithm>
#include <array>
#include <bit>

#include "sum_tree.h"

namespace survcore::metrics {

namespace {

// A time that is not negative orders as its bits do, and leaves the sign's place free for the event.
std::uint64_t pack(double time, bool event) {
  const double positive = time + 0.0;  // turns -0 into 0
  return std::bit_cast<std::uint64_t>(positive) << 1 | event;
}

// A word near the median of the rows.
std::uint64_t approximate_median(const double* time, std::size_t count) {
  std::array<double, 255> sample;
  for (std::size_t i = 0; i < sample.size(); ++i) sample[i] = time[i * count / sample.size()];
  const auto middle = sample.begin() + sample.size() / 2;
  std::nth_element(sample.begin(), middle, sample.end());
  return pack(*middle, false);
}

// Keeps what rounding takes from a running sum.
class CompensatedSum {
 public:
  void add(double value) {
    const double total = sum_ + value;
    const double added = total - sum_;
    lost_ += (sum_ - (total - added)) + (value - added);
    sum_ = total;
  }

  double value() const { return sum_ + lost_; }

 private:
  double sum_ = 0;
  double lost_ = 0;
};

// In both cases below, the weights at risk before a time and after its deaths are sums of those who are there, not what
// a subtraction leaves: the few who outlive much heavier patients keep their digits, and where all die nobody is left.

// All rows at risk from the start: sums over the rows from the last one backward, then products forward.
void expose_all(const WeightedRows& rows, double* times, double* survival, double* at_risk, double* events) {
  std::size_t step = distinct_times(rows.time, rows.count);
  const std::size_t steps = step;
  CompensatedSum exposed;
  for (std::size_t last = rows.count, first; last > 0; last = first) {
    const double now = rows.time[last - 1];
    CompensatedSum deaths;
    for (first = last; first > 0 && rows.time[first - 1] == now; --first) {
      if (!rows.event[first - 1]) exposed.add(rows.weight[first - 1]);
    }
    const double staying = exposed.value();
    for (std::size_t row = first; row < last; ++row) {
      if (!rows.event[row]) continue;
      deaths.add(rows.weight[row]);
      exposed.add(rows.weight[row]);
    }
    --step;
    times[step] = now;
    at_risk[step] = exposed.value();
    events[step] = deaths.value();
    survival[step] = staying / exposed.value();
  }
  for (double surviving = 1.0; step < steps; ++step) survival[step] = surviving *= survival[step];
}

// Rows that come and go: a tree of sums with one leaf per row.
void expose_late(const WeightedRows& rows, double* times, double* survival, double* at_risk, double* events) {
  SumTree exposed(rows.count);
  double surviving = 1.0;
  std::size_t entered = 0;
  for (std::size_t first = 0, last, step = 0; first < rows.count; first = last, ++step) {
    const double now = rows.time[first];
    for (; entered < rows.count && rows.entry[entered] < now; ++entered) {
      const std::uint32_t row = rows.entry_row[entered];
      exposed.set(row, rows.weight[row]);
    }
    times[step] = now;
    at_risk[step] = exposed.total();
    CompensatedSum deaths;
    for (last = first; last < rows.count && rows.time[last] == now; ++last) {
      if (!rows.event[last]) continue;
      deaths.add(rows.weight[last]);
      exposed.set(static_cast<std::uint32_t>(last), 0.0);
    }
    events[step] = deaths.value();
    survival[step] = surviving *= exposed.total() / at_risk[step];
    for (std::size_t row = first; row < last; ++row) {
      if (!rows.event[row]) exposed.set(static_cast<std::uint32_t>(row), 0.0);
    }
  }
}

}  // namespace

std::size_t pack_times(const double* time, const bool* event, std::size_t count, std::uint64_t* words) {
  if (count == 0) return 0;
  const std::uint64_t median = approximate_median(time, count);
  std::size_t front = 0;
  std::size_t back = count;
  for (std::size_t i = 0; i < count; ++i) {
    // Written to both ends, kept at one: no branch to mispredict.
    const std::uint64_t word = pack(time[i], event[i]);
    words[front] = word;
    words[back - 1] = word;
    const bool behind = word >= median;
    front += !behind;
    back -= behind;
  }
  return front;
}

std::size_t distinct_times(const std::uint64_t* words, std::size_t count) {
  std::size_t distinct = count > 0;
  for (std::size_t i = 1; i < count; ++i) distinct += words[i] >> 1 != words[i - 1] >> 1;
  return distinct;
}

void kaplan_meier(const std::uint64_t* words, const double* entries, std::size_t count, double* times, double* survival,
                  std::int64_t* at_risk, std::int64_t* events) {
  double surviving = 1.0;
  std::size_t entered = entries ? 0 : count;
  for (std::size_t first = 0, last, step = 0; first < count; first = last, ++step) {
    const std::uint64_t now = words[first] >> 1;
    const auto time = std::bit_cast<double>(now);
    std::int64_t deaths = 0;
    for (last = first; last < count && words[last] >> 1 == now; ++last) deaths += words[last] & 1;
    while (entered < count && entries[entered] < time) ++entered;
    const auto exposed = static_cast<std::int64_t>(entered - first);
    surviving *= static_cast<double>(exposed - deaths) / static_cast<double>(exposed);
    times[step] = time;
    survival[step] = surviving;
    at_risk[step] = exposed;
    events[step] = deaths;
  }
}

std::size_t distinct_times(const double* time, std::size_t count) {
  std::size_t distinct = count > 0;
  for (std::size_t i = 1; i < count; ++i) distinct += time[i] != time[i - 1];
  return distinct;
}

void weighted_kaplan_meier(const WeightedRows& rows, double* times, double* survival, double* at_risk, double* events) {
  if (rows.entry) {
    expose_late(rows, times, survival, at_risk, events);
  } else {
    expose_all(rows, times, survival, at_risk, events);
  }
}

}  // namespace survcore::metrics
