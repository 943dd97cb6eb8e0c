#include "line_up.h"

#include "order.h"

namespace survcore::metrics {

namespace {

std::vector<std::uint32_t> ends_of_strata(const ConcordanceColumns& columns) {
  if (columns.stratum == nullptr) return {static_cast<std::uint32_t>(columns.count)};
  std::vector<std::uint32_t> ends(columns.strata, 0);
  for (std::size_t row = 0; row < columns.count; ++row) ++ends[columns.stratum[row]];
  std::uint32_t end = 0;
  for (std::uint32_t& rows : ends) rows = end += rows;
  return ends;
}

// The words stratum by stratum, in their order within each.
std::vector<std::uint64_t> grouped(const std::uint64_t* words, const ConcordanceColumns& columns,
                                   const std::vector<std::uint32_t>& ends) {
  std::vector<std::uint64_t> result(columns.count);
  std::vector<std::uint32_t> free = ends;  // from the back, so that the ends serve as cursors
  for (std::size_t i = columns.count; i-- > 0;) result[--free[columns.stratum[row_of(words[i])]]] = words[i];
  return result;
}

}  // namespace

LineUp::LineUp(const ConcordanceColumns& columns, const ConcordanceOrders& orders)
    : rows_(columns.count), ends_(ends_of_strata(columns)) {
  ConcordanceOrders by = orders;
  std::vector<std::uint64_t> times, risks, entries;
  if (columns.stratum != nullptr) {
    times = grouped(orders.by_time, columns, ends_);
    risks = grouped(orders.by_risk, columns, ends_);
    by = {times.data(), risks.data()};
    if (columns.entry != nullptr) {
      entries = grouped(orders.by_entry, columns, ends_);
      by.by_entry = entries.data();
    }
  }
  if (columns.weight != nullptr) weights_.resize(columns.count);
  if (columns.event_weight != nullptr) event_weights_.resize(columns.count);
  line_up(columns, by.by_time, by.by_risk);
  if (columns.entry != nullptr) place_entries(columns, by.by_time, by.by_entry);
}

LineUp::Stratum LineUp::stratum(std::size_t index) const {
  const std::uint32_t first = index == 0 ? 0 : ends_[index - 1];
  if (entrance_ends_.empty()) return {first, ends_[index], {}};
  const std::size_t begin = index == 0 ? 0 : entrance_ends_[index - 1];
  return {first, ends_[index], std::span(entrances_).subspan(begin, entrance_ends_[index] - begin)};
}

void LineUp::line_up(const ConcordanceColumns& columns, const std::uint64_t* by_time, const std::uint64_t* by_risk) {
  std::vector<std::uint32_t> ranks(columns.count);
  std::uint32_t first = 0;
  for (const std::uint32_t last : ends_) {
    for (std::uint32_t i = first, tied = first; i < last; ++i) {
      if (!same_value(columns.risk, by_risk[i], by_risk[tied])) tied = i;
      ranks[row_of(by_risk[i])] = tied - first;
    }
    std::uint32_t place = first;
    for (std::uint32_t i = last; i-- > first; ++place) {
      const std::uint32_t row = row_of(by_time[i]);
      const bool continued = i > first && same_value(columns.time, by_time[i], by_time[i - 1]);
      rows_[place] =
          std::uint64_t{ranks[row]} << 2 | (columns.event[row] ? event_bit : 0) | (continued ? continued_bit : 0);
      if (!weights_.empty()) weights_[place] = columns.weight[row];
      if (!event_weights_.empty()) event_weights_[place] = columns.event_weight[row];
    }
    first = last;
  }
}

void LineUp::place_entries(const ConcordanceColumns& columns, const std::uint64_t* by_time,
                           const std::uint64_t* by_entry) {
  std::vector<std::uint32_t> place_of(columns.count);
  std::uint32_t first = 0;
  for (const std::uint32_t last : ends_) {
    for (std::uint32_t i = last, place = first; i-- > first; ++place) place_of[row_of(by_time[i])] = place;
    std::uint32_t place = first;
    for (std::uint32_t i = last; i-- > first;) {
      const std::uint32_t row = row_of(by_entry[i]);
      // The row at `place` is the one at last - 1 - (place - first) by time.
      while (place < last && columns.time[row_of(by_time[last - 1 - (place - first)])] > columns.entry[row]) ++place;
      if (place == last) break;  // this row and those that entered earlier were there for every event
      entrances_.push_back({place_of[row], place});
    }
    entrance_ends_.push_back(entrances_.size());
    first = last;
  }
}

}  // namespace survcore::metrics
