// How many of falling times lie above a value: a search within the few of them that fall into the value's bucket.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

namespace survcore {

template <class Time>
class FallingTimes {
 public:
  // Falling, at least one.
  explicit FallingTimes(std::vector<Time> times) : times_(std::move(times)) {
    const auto count = static_cast<int64_t>(times_.size());
    buckets_ = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count)));
    lowest_ = static_cast<double>(times_.back());
    const double width = static_cast<double>(times_.front()) - lowest_;
    scale_ = width > 0 ? static_cast<double>(buckets_) / width : 0;
    // at_least_[b] times are of bucket b or a higher one.
    at_least_.assign(buckets_ + 1, 0);
    for (const Time time : times_) ++at_least_[bucket_of(time)];
    for (int64_t bucket = buckets_ - 1; bucket >= 0; --bucket) at_least_[bucket] += at_least_[bucket + 1];
  }

  int32_t count_above(Time value) const {
    const int64_t bucket = bucket_of(value);
    const auto first = times_.begin() + at_least_[bucket + 1];
    const auto last = times_.begin() + at_least_[bucket];
    return static_cast<int32_t>(std::partition_point(first, last, [=](Time time) { return time > value; }) -
                                times_.begin());
  }

 private:
  // Never falls as the time rises, rounding included, and is the same for equal times.
  int64_t bucket_of(Time time) const {
    const double place = (static_cast<double>(time) - lowest_) * scale_;
    if (!(place > 0)) return 0;
    return place < static_cast<double>(buckets_) ? static_cast<int64_t>(place) : buckets_ - 1;
  }

  std::vector<Time> times_;
  std::vector<int32_t> at_least_;
  int64_t buckets_;
  double lowest_;
  double scale_;
};

}  // namespace survcore
