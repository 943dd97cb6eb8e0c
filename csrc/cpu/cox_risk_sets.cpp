// CPU kernel of cox_risk_sets: one radix sort of packed words (stratum, time, event, row), one pass that finds the
// groups.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/cox_plan.h"
#include "common/dispatch.h"
#include "common/falling_times.h"
#include "common/parallel.h"
#include "common/radix_sort.h"
#include "common/scratch.h"
#include "common/tensors.h"

namespace survcore {
namespace {

// A word is a key of 31 bits for stratum and time, one bit for the event and the row's number.
constexpr int key_bits = 31;
inline uint32_t row_of(Word word) { return static_cast<uint32_t>(word); }
inline uint32_t key_of(Word word) { return static_cast<uint32_t>(word >> 33); }
inline bool is_event(Word word) { return word >> 32 & 1; }

// Times as unsigned integers in the same order, and back. -0 counts as 0; what is no time comes after all times.
inline uint32_t ordered_bits(float time) { return std::bit_cast<uint32_t>(time + 0.0f); }
inline uint64_t ordered_bits(double time) { return std::bit_cast<uint64_t>(time + 0.0); }
inline uint64_t ordered_bits(int64_t time) { return static_cast<uint64_t>(time); }

template <class Time>
using Bits = decltype(ordered_bits(Time()));

template <class Time>
constexpr Bits<Time> largest_time = std::bit_cast<Bits<Time>>(std::numeric_limits<Time>::max());

// Whether an event indicator is 0 or 1.
inline bool valid_event(uint8_t event) { return event <= 1; }

template <class Time>
struct TimeRange {
  Bits<Time> smallest = std::numeric_limits<Bits<Time>>::max();
  Bits<Time> largest = 0;
  uint32_t fractional = 0;  // not 0: some time is not a whole number below 2^31
};

template <class Time>
SURVCORE_INLINE void find_range(const Time* time, int64_t first, int64_t last, TimeRange<Time>& range) {
  Bits<Time> smallest = range.smallest;
  Bits<Time> largest = range.largest;
  uint32_t fractional = range.fractional;
#pragma omp simd reduction(min : smallest) reduction(max : largest) reduction(| : fractional)
  for (int64_t row = first; row < last; ++row) {
    const Bits<Time> bits = ordered_bits(time[row]);
    smallest = bits < smallest ? bits : smallest;
    largest = bits > largest ? bits : largest;
    if constexpr (std::is_floating_point_v<Time>) {
      const Time small = time[row] >= 0 && time[row] < Time(2147483648.0) ? time[row] : Time(0);
      fractional |= static_cast<Time>(static_cast<int32_t>(small)) != time[row];
    }
  }
  range = {smallest, largest, fractional};
}

// Stratum of each row in the order of the labels: label - base where labels lie close together, else their rank.
struct Strata {
  const int64_t* labels;  // null: one stratum
  int64_t base = 0;
  int bits = 0;
  std::vector<int64_t> sorted;  // the distinct labels, where they are ranked

  Strata(const int64_t* given, int64_t rows) : labels(given) {
    if (labels == nullptr) return;
    const auto [least, most] = std::minmax_element(labels, labels + rows);
    base = *least;
    bits = std::bit_width(static_cast<uint64_t>(*most) - static_cast<uint64_t>(*least));
    if (bits <= 16) return;
    sorted.assign(labels, labels + rows);
    std::sort(sorted.begin(), sorted.end());
    sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
    bits = std::bit_width(sorted.size() - 1);
  }

  Word of(int64_t row) const {
    if (labels == nullptr) return 0;
    if (sorted.empty()) return static_cast<Word>(labels[row] - base);
    return std::lower_bound(sorted.begin(), sorted.end(), labels[row]) - sorted.begin();
  }
};

struct Problem {
  CoxSections<int32_t> plan;
  int64_t rows;
  const uint8_t* event;   // 0, 1 or more
  const int64_t* strata;  // or null

  void fail(CoxError error, int64_t row) const {
    plan.header()[cox_error] = static_cast<int32_t>(error);
    plan.header()[cox_error_row] = static_cast<int32_t>(row);
  }
};

// How a time becomes a place among all times, from the latest on: its leading bits.
struct Places31 {
  uint64_t latest;
  int dropped;
  bool whole;
};

// Words of a run of rows; whether they rise.
template <class Time>
SURVCORE_INLINE bool fill_run(const Time* time, const uint8_t* event, int64_t first, int64_t count, Places31 places,
                              Word* words) {
  if (std::is_floating_point_v<Time> && places.whole) {
    const auto latest = static_cast<uint32_t>(places.latest);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t place = (latest - static_cast<uint32_t>(static_cast<int32_t>(time[i]))) >> places.dropped;
      words[i] = static_cast<Word>(place << 1 | event[i]) << 32 | static_cast<Word>(first + i);
    }
  } else {
    const auto latest = static_cast<Bits<Time>>(places.latest);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const auto place = static_cast<uint32_t>((latest - ordered_bits(time[i])) >> places.dropped);
      words[i] = static_cast<Word>(place << 1 | event[i]) << 32 | static_cast<Word>(first + i);
    }
  }
  Word falls = 0;
#pragma omp simd reduction(| : falls)
  for (int64_t i = 1; i < count; ++i) falls |= words[i - 1] > words[i];
  return falls == 0;
}

// Positions of a run: row and event of each, and whether it is an event of another time than the next one.
SURVCORE_INLINE void mark_run(const Word* words, int64_t count, Word next, int32_t* order, uint8_t* ends) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) order[i] = static_cast<int32_t>(row_of(words[i]) << 1 | is_event(words[i]));
#pragma omp simd
  for (int64_t i = 0; i < count - 1; ++i) ends[i] = is_event(words[i]) & (key_of(words[i]) != key_of(words[i + 1]));
  ends[count - 1] = is_event(words[count - 1]) & (key_of(words[count - 1]) != key_of(next));
}

// One definition for each type and instruction set.
#define SURVCORE_FOR_TIME(Time, bytes)                                                                             \
  SURVCORE_TARGET_##bytes void range_of(VectorWidth<bytes>, const Time* time, int64_t first, int64_t last,         \
                                        TimeRange<Time>& range) {                                                  \
    find_range(time, first, last, range);                                                                          \
  }                                                                                                                \
  SURVCORE_TARGET_##bytes bool words_of(VectorWidth<bytes>, const Time* time, const uint8_t* event, int64_t first, \
                                        int64_t count, Places31 places, Word* words) {                             \
    return fill_run(time, event, first, count, places, words);                                                     \
  }
#define SURVCORE_FOR_WIDTH(bytes)                                                                            \
  SURVCORE_FOR_TIME(float, bytes)                                                                            \
  SURVCORE_FOR_TIME(double, bytes)                                                                           \
  SURVCORE_FOR_TIME(int64_t, bytes)                                                                          \
  SURVCORE_TARGET_##bytes void positions_of(VectorWidth<bytes>, const Word* words, int64_t count, Word next, \
                                            int32_t* order, uint8_t* ends) {                                 \
    mark_run(words, count, next, order, ends);                                                               \
  }
SURVCORE_FOR_WIDTH(64)
SURVCORE_FOR_WIDTH(32)
SURVCORE_FOR_WIDTH(16)
#undef SURVCORE_FOR_WIDTH
#undef SURVCORE_FOR_TIME

template <class Time>
TimeRange<Time> range_of(const Time* time, int64_t rows) {
  std::vector<TimeRange<Time>> parts((rows + sort_block_rows - 1) / sort_block_rows);
  for_each_block(rows, [&](int64_t block, int64_t first, int64_t last) {
    with_vector_width([&](auto width) { range_of(width, time, first, last, parts[block]); });
  });
  TimeRange<Time> range;
  for (const TimeRange<Time>& part : parts) {
    range.smallest = std::min(range.smallest, part.smallest);
    range.largest = std::max(range.largest, part.largest);
    range.fractional |= part.fractional;
  }
  return range;
}

// Words in the order of the rows; whether that is also the order of the words.
template <class Time>
bool fill_words(const Problem& problem, const Time* time, const Strata& strata, int time_bits, Places31 places,
                Words words) {
  std::vector<char> rising((problem.rows + Words::run - 1) / Words::run);
  for_each_block(problem.rows, [&](int64_t, int64_t block_first, int64_t block_last) {
    for (int64_t first = block_first; first < block_last; first += Words::run) {
      const int64_t count = std::min(Words::run, block_last - first);
      Word* target = &words[first];
      with_vector_width([&](auto width) {
        rising[first / Words::run] = words_of(width, time + first, problem.event + first, first, count, places, target);
      });
      if (strata.labels == nullptr) continue;
      for (int64_t i = 0; i < count; ++i) target[i] += strata.of(first + i) << time_bits << 33;
      rising[first / Words::run] = std::is_sorted(target, target + count);
    }
  });
  bool all = std::all_of(rising.begin(), rising.end(), [](char run) { return run; });
  for (int64_t first = Words::run; first < problem.rows; first += Words::run) all &= words[first - 1] <= words[first];
  return all;
}

// Of a stratum: those that end with events, and all.
struct Groups {
  int32_t first;
  int32_t end_of_events;
  int32_t end;
};

// Writes the last group at whose events each position is at risk; whether that is for some not the last of the stratum.
template <class Time>
bool find_last(const CoxSections<int32_t>& plan, Groups groups, const Time* time, const Time* entry) {
  const int32_t* order = plan.order();
  const int32_t* start = plan.start();
  std::vector<Time> times(groups.end_of_events - groups.first);
  for (int32_t group = groups.first; group < groups.end_of_events; ++group) {
    times[group - groups.first] = time[order[start[group + 1] / 2 - 1] / 2];
  }
  const FallingTimes<Time> falling(std::move(times));
  const int64_t begin = start[groups.first] / 2;
  std::atomic<bool> early = false;
  for_each_chunk(start[groups.end] / 2 - begin, 1 << 12, 8, [&](int64_t, int64_t first, int64_t end) {
    bool some = false;
    const auto own_start =
        std::upper_bound(start + groups.first, start + groups.end, static_cast<int32_t>(2 * (begin + first) + 1));
    auto own = static_cast<int32_t>(own_start - start) - 1;
    for (int64_t position = begin + first; position < begin + end; ++position) {
      own += position == start[own + 1] / 2;
      const int32_t found = groups.first + falling.count_above(entry[order[position] / 2]) - 1;
      const bool all = found == groups.end_of_events - 1 || own >= groups.end_of_events;
      plan.last()[position] = all ? groups.end - 1 : std::max(found, own - 1);
      some |= !all;
    }
    if (some) early = true;
  });
  return early;
}

template <class Time>
void build(const Problem& problem, const Time* time, const Time* entry) {
  const int64_t rows = problem.rows;
  const auto& plan = problem.plan;
  int32_t* header = plan.header();
  std::fill_n(header, cox_header_size, 0);
  header[cox_rows] = static_cast<int32_t>(rows);
  plan.start()[0] = 1;
  if (rows == 0) return;

  const TimeRange<Time> range = range_of(time, rows);
  uint8_t events_seen = 0;
  for (int64_t row = 0; row < rows; ++row) events_seen |= problem.event[row];
  const auto valid_time = [&](int64_t row) { return ordered_bits(time[row]) <= largest_time<Time>; };
  if (range.largest > largest_time<Time> || !valid_event(events_seen)) {
    int64_t row = 0;
    while (valid_time(row) && valid_event(problem.event[row])) ++row;
    return problem.fail(valid_time(row) ? CoxError::event : CoxError::time, row);
  }
  if (entry != nullptr) {
    for (int64_t row = 0; row < rows; ++row) {
      if (std::isnan(static_cast<double>(entry[row]))) return problem.fail(CoxError::entry, row);
      if (!(entry[row] < time[row])) return problem.fail(CoxError::entry_not_before_time, row);
    }
  }

  // Whole numbers take fewer bits, and so fewer passes, than what a floating type makes of them.
  const Strata strata(problem.strata, rows);
  const bool whole = std::is_floating_point_v<Time> && !range.fractional;
  const auto number_of = [=](Bits<Time> bits) {
    return whole ? static_cast<uint64_t>(std::bit_cast<Time>(bits)) : static_cast<uint64_t>(bits);
  };
  const uint64_t latest = number_of(range.largest);
  const int width = std::bit_width(latest - number_of(range.smallest));
  const int time_bits = std::min(width, key_bits - strata.bits);
  const int dropped = width - time_bits;
  Scratch<Word> memory(2 * Words::size(rows));
  Words words{memory.data()};
  Words other{memory.data() + Words::size(rows)};
  bool in_order = fill_words(problem, time, strata, time_bits, Places31{latest, dropped, whole}, words);
  if (!in_order) {
    if (rows <= 192) {
      std::sort(words.data, words.data + rows);  // before the first free line
    } else {
      radix_sort(words, other, rows, time_bits + strata.bits + 1);
    }
  }
  if (dropped > 0) {  // times that share their leading bits
    const auto later = [&](Word a, Word b) {
      const Time left = time[row_of(a)];
      const Time right = time[row_of(b)];
      return left != right ? left > right : (is_event(a) != is_event(b) ? is_event(b) : row_of(a) < row_of(b));
    };
    std::vector<Word> run;
    for (int64_t first = 0, end; first < rows; first = end) {
      for (end = first + 1; end < rows && key_of(words[end]) == key_of(words[first]); ++end) {
      }
      if (end - first == 1) continue;
      run.clear();
      for (int64_t i = first; i < end; ++i) run.push_back(words[i]);
      if (std::is_sorted(run.begin(), run.end(), later)) continue;
      std::sort(run.begin(), run.end(), later);
      in_order = false;
      for (int64_t i = first; i < end; ++i) words[i] = run[i - first];
    }
  }

  // Groups, without branches: which position ends one is as good as random.
  int32_t* order = plan.order();
  int32_t* start = plan.start();
  int32_t* events = plan.events();
  int32_t group = 0;
  int32_t all_events = 0;
  bool stratified = false;
  std::array<uint8_t, Words::run> ends;  // 0, or that a group ends at a position, 1, and a stratum, 2
  for (int64_t first = 0; first < rows; first += Words::run) {
    const int64_t count = std::min(Words::run, rows - first);
    const Word* run = &words[first];
    const Word next = first + count < rows ? words[first + count] : ~run[count - 1];
    with_vector_width([&](auto width) { positions_of(width, run, count, next, order + first, ends.data()); });
    if (dropped > 0 || strata.bits > 0) {
      for (int64_t i = 0; i < count; ++i) {
        const Word word = run[i];
        const Word after = i + 1 < count ? run[i + 1] : next;
        if (key_of(word) >> time_bits != key_of(after) >> time_bits) {
          ends[i] = 2;
        } else if (key_of(word) == key_of(after)) {  // the keys alone tell nearly all differences
          ends[i] = is_event(word) & (time[row_of(word)] != time[row_of(after)]);
        }
      }
    }
    if (first + count == rows) ends[count - 1] = 1;
    for (int64_t i = 0; i < count; ++i) {
      all_events += order[first + i] & 1;
      events[group] = all_events;
      start[group + 1] = static_cast<int32_t>(2 * (first + i + 1)) + (ends[i] >> 1);
      stratified |= ends[i] > 1;
      group += ends[i] > 0;
    }
  }
  int32_t most_events = 0;  // of one group; so far the numbers are of all groups up to it
  for (int32_t i = group - 1; i >= 0; --i) {
    events[i] -= i > 0 ? events[i - 1] : 0;
    most_events = std::max(most_events, events[i]);
  }
  header[cox_groups] = group;
  header[cox_events] = all_events;
  header[cox_flags] =
      (in_order ? cox_in_order : 0) | (most_events > 1 ? cox_tied : 0) | (stratified ? cox_stratified : 0);
  if (entry == nullptr) return;

  // The last group whose events come after the row's entry, of the row's stratum.
  bool truncated = false;
  for (int32_t first = 0, end; first < group; first = end) {
    for (end = first + 1; end < group && start[end] % 2 == 0; ++end) {
    }
    int32_t with_events = end;  // nothing happens in the last group of some strata
    if (events[end - 1] == 0) --with_events;
    if (with_events > first) {
      truncated = find_last(plan, Groups{first, with_events, end}, time, entry) || truncated;
    } else {
      std::fill(plan.last() + start[first] / 2, plan.last() + start[end] / 2, end - 1);
    }
  }
  if (truncated) header[cox_flags] |= cox_truncated;
}

// Floating types as they are or wider, integers as int64, so that no two times become one.
ScalarType time_type(const Tensor& time) {
  switch (time.scalar_type()) {
    case ScalarType::Double:
      return ScalarType::Double;
    case ScalarType::Float:
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return ScalarType::Float;
    default:
      return ScalarType::Long;
  }
}

// 0 and 1 as they are, anything else as 2.
template <class Event>
void copy_events(const Event* event, int64_t rows, uint8_t* copy) {
  for (int64_t row = 0; row < rows; ++row) {
    copy[row] = event[row] == Event(1) ? uint8_t(1) : event[row] == Event(0) ? uint8_t(0) : uint8_t(2);
  }
}

Scratch<uint8_t> events_of(const Tensor& event, int64_t rows) {
  Scratch<uint8_t> copy(rows);
  if (event.scalar_type() == ScalarType::Double) {
    copy_events(static_cast<const double*>(event.const_data_ptr()), rows, copy.data());
  } else if (time_type(event) == ScalarType::Float) {
    const Tensor typed = contiguous_as(event, ScalarType::Float);
    copy_events(static_cast<const float*>(typed.const_data_ptr()), rows, copy.data());
  } else {
    const Tensor typed = contiguous_as(event, ScalarType::Long);
    copy_events(static_cast<const int64_t*>(typed.const_data_ptr()), rows, copy.data());
  }
  return copy;
}

Tensor cox_risk_sets(const Tensor& time, const Tensor& event, const Tensor& entry, const Tensor& strata) {
  const int64_t rows = time.numel();
  STD_TORCH_CHECK(rows < int64_t(1) << 29, "time has too many rows: ", rows);
  STD_TORCH_CHECK(event.numel() == rows, "event must have one entry per row of time");
  STD_TORCH_CHECK(entry.numel() == rows || entry.numel() == 0, "entry must have one entry per row of time, or none");
  STD_TORCH_CHECK(strata.numel() == rows || strata.numel() == 0, "strata must have one entry per row of time, or none");
  const bool truncated = entry.numel() > 0;
  ScalarType type = time_type(time);
  if (truncated && time_type(entry) != type) type = ScalarType::Double;
  const Tensor times = contiguous_as(time, type);
  const Tensor entries = truncated ? contiguous_as(entry, type) : entry;
  const Tensor labels = strata.numel() ? contiguous_as(strata, ScalarType::Long) : strata;
  const Tensor events = contiguous_as(event, event.scalar_type());
  const bool as_they_are = event.scalar_type() == ScalarType::Bool;
  Scratch<uint8_t> copied = as_they_are ? Scratch<uint8_t>(0) : events_of(events, rows);
  Tensor plan = empty_on(time, {CoxSections<int32_t>::size(rows, truncated)}, ScalarType::Int);
  const Problem problem{{static_cast<int32_t*>(plan.mutable_data_ptr()), rows},
                        rows,
                        as_they_are ? static_cast<const uint8_t*>(events.const_data_ptr()) : copied.data(),
                        labels.numel() ? static_cast<const int64_t*>(labels.const_data_ptr()) : nullptr};
  const auto build_from = [&](auto zero) {
    using Time = decltype(zero);
    build(problem, static_cast<const Time*>(times.const_data_ptr()),
          truncated ? static_cast<const Time*>(entries.const_data_ptr()) : nullptr);
  };
  if (type == ScalarType::Double) {
    build_from(double());
  } else if (type == ScalarType::Float) {
    build_from(float());
  } else {
    build_from(int64_t());
  }
  return plan;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) { m.impl("cox_risk_sets", TORCH_BOX(&cox_risk_sets)); }

}  // namespace survcore
