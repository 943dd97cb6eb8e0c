// common/interval_sums.h against a sum cell by cell, for as many cells as one, two and three levels of blocks take, and
// common/falling_times.h against a count.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "common/falling_times.h"
#include "common/interval_sums.h"
#include "core/cox.h"
#include "tests/check.h"

using namespace survcore;

namespace {

// Blocks from the last to the first: their order must not matter.
constexpr auto backwards = [](int64_t blocks, int64_t, const auto& body) {
  for (int64_t block = blocks; block-- > 0;) body(block);
};

struct Interval {
  int64_t first;
  int64_t last;
};

// Of any length, short ones, whole ones, empty ones, and such that begin or end with a block.
std::vector<Interval> intervals_of(int64_t cells, int count) {
  std::mt19937_64 random(cells);
  std::vector<Interval> intervals = {{0, cells - 1}, {0, 0}, {cells - 1, cells - 1}, {cells - 1, cells - 2}};
  while (static_cast<int>(intervals.size()) < count) {
    int64_t first = random() % cells;
    int64_t last = random() % 3 ? random() % cells : std::min<int64_t>(cells - 1, first + random() % 200);
    if (random() % 4 == 0) first &= ~int64_t(63);
    if (random() % 4 == 0) last = std::min(cells - 1, last | 4095);
    if (first > last) std::swap(first, last);
    intervals.push_back({first, last});
  }
  return intervals;
}

void test_covering(int64_t cells, int parts) {
  const std::vector<Interval> intervals = intervals_of(cells, 400);
  CoveringSums<PlainSum> covering(cells, parts);
  for (int part = 0; part < parts; ++part) covering.begin(part);
  std::vector<double> differences(cells + 1);  // of whole numbers, which are added exactly
  for (std::size_t i = 0; i < intervals.size(); ++i) {
    const auto [first, last] = intervals[i];
    const double term = static_cast<double>(i + 1);
    covering.cover(static_cast<int>(i) % parts, first, last, [=](PlainSum& sum) { sum.sum += term; });
    if (first > last) continue;
    differences[first] += term;
    differences[last + 1] -= term;
  }
  const std::vector<PlainSum> totals = std::move(covering).totals(backwards);
  CHECK(static_cast<int64_t>(totals.size()) == cells);
  double expected = 0;
  bool equal = true;
  for (int64_t cell = 0; cell < cells; ++cell) equal &= totals[cell].sum == (expected += differences[cell]);
  CHECK(equal);
}

void test_interval_sums(int64_t cells) {
  std::vector<PlainSum> values(cells);
  std::vector<double> sums(cells + 1);
  for (int64_t cell = 0; cell < cells; ++cell) {
    values[cell].sum = static_cast<double>(cell * 7919 % 101);
    sums[cell + 1] = sums[cell] + values[cell].sum;
  }
  const IntervalSums<PlainSum> interval_sums(std::move(values), backwards);
  for (const auto [first, last] : intervals_of(cells, 400)) {
    double sum = 0;
    interval_sums.visit(first, last, [&](const PlainSum& part) { sum += part.sum; });
    CHECK(sum == (first > last ? 0 : sums[last + 1] - sums[first]));
  }
}

template <class Time>
void test_falling_times(std::vector<Time> times, std::vector<Time> values) {
  std::sort(times.rbegin(), times.rend());
  const FallingTimes<Time> falling(times);
  values.insert(values.end(), times.begin(), times.end());
  for (const Time value : values) {
    CHECK(falling.count_above(value) == std::count_if(times.begin(), times.end(), [=](Time t) { return t > value; }));
  }
}

}  // namespace

int main() {
  for (const int64_t cells : {1, 2, 63, 64, 65, 300, 16'383, 16'384, 20'000, 1'100'000}) {
    test_covering(cells, 1);
    test_covering(cells, 2);
    test_interval_sums(cells);
  }

  constexpr double infinity = std::numeric_limits<double>::infinity();
  constexpr int64_t latest = std::numeric_limits<int64_t>::max();
  std::mt19937 random(5);
  std::vector<double> spread;
  std::vector<float> close;
  for (int i = 0; i < 500; ++i) {
    spread.push_back(std::exp(static_cast<double>(random() % 1000)));
    close.push_back(1 + static_cast<float>(random() % 9) * std::numeric_limits<float>::epsilon());
  }
  test_falling_times<double>(spread, {-infinity, -1, 0, 1, 2.5, 1e300, infinity});
  test_falling_times<float>(close, {0, 1, 2});
  test_falling_times<double>({3, 3, 3}, {-infinity, 2, 4});
  test_falling_times<double>({0, std::numeric_limits<double>::denorm_min()}, {-infinity, -1, 1});
  test_falling_times<double>({0, std::numeric_limits<double>::max()}, {-infinity, 1e300});
  // Numbers that a double does not tell apart.
  test_falling_times<int64_t>({latest, latest - 1, latest - 2, 5, 0},
                              {latest - 3, 6, -7, std::numeric_limits<int64_t>::min()});
  return failures();
}
