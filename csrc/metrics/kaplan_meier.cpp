#include "kaplan_meier.h"

#include <algorithm>
#include <array>
#include <bit>

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

void kaplan_meier(const std::uint64_t* words, std::size_t count, double* times, double* survival, std::int64_t* at_risk,
                  std::int64_t* events) {
  double surviving = 1.0;
  for (std::size_t first = 0, last, entry = 0; first < count; first = last, ++entry) {
    const std::uint64_t now = words[first] >> 1;
    std::int64_t deaths = 0;
    for (last = first; last < count && words[last] >> 1 == now; ++last) deaths += words[last] & 1;
    const auto exposed = static_cast<std::int64_t>(count - first);
    surviving *= static_cast<double>(exposed - deaths) / static_cast<double>(exposed);
    times[entry] = std::bit_cast<double>(now);
    survival[entry] = surviving;
    at_risk[entry] = exposed;
    events[entry] = deaths;
  }
}

}  // namespace survcore::metrics
