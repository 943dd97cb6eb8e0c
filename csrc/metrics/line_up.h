// Rows in the order in which concordances are counted: stratum by stratum, by decreasing time, with all that the
// counting reads of them in one word, so that it reads forward.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace survcore::metrics {

// Columns [count] as the caller has them; those that may be null: no late entry, weights of 1, one stratum.
struct ConcordanceColumns {
  std::size_t count;
  const double* time;  // without NaN, as risk and entry are
  const bool* event;
  const double* risk;
  const double* entry = nullptr;
  const double* weight = nullptr;
  const double* event_weight = nullptr;
  const std::int32_t* stratum = nullptr;  // 0 to strata - 1
  std::size_t strata = 1;
};

// Words of order.h, sorted and finished [count].
struct ConcordanceOrders {
  const std::uint64_t* by_time;
  const std::uint64_t* by_risk;
  const std::uint64_t* by_entry = nullptr;  // where there is a column of entries
};

class LineUp {
 public:
  LineUp(const ConcordanceColumns& columns, const ConcordanceOrders& orders);

  // A row that comes under observation late: it counts for the events before `place`, where the rows begin whose time
  // is not after its entry.
  struct Entrance {
    std::uint32_t row;
    std::uint32_t place;
  };

  // Rows [first, last) and their late entries, by decreasing entry.
  struct Stratum {
    std::uint32_t first;
    std::uint32_t last;
    std::span<const Entrance> entrances;
  };

  std::size_t size() const { return rows_.size(); }
  std::size_t strata() const { return ends_.size(); }
  Stratum stratum(std::size_t index) const;

  // Of a row, by its place here. Rows of equal risk share a rank: the place of the first among the sorted risks of
  // their stratum.
  std::uint32_t rank(std::size_t place) const { return static_cast<std::uint32_t>(rows_[place] >> 2); }
  bool event(std::size_t place) const { return rows_[place] & event_bit; }
  // Whether the row at the next place has the same time.
  bool continued(std::size_t place) const { return rows_[place] & continued_bit; }

  // A pair weighs weight x weight x event_weight of the event that comes first.
  bool weighted() const { return !weights_.empty(); }
  bool events_weighted() const { return !event_weights_.empty(); }
  double weight(std::size_t place) const { return weights_.empty() ? 1.0 : weights_[place]; }
  double event_weight(std::size_t place) const { return event_weights_.empty() ? 1.0 : event_weights_[place]; }

 private:
  static constexpr std::uint64_t event_bit = 2;
  static constexpr std::uint64_t continued_bit = 1;

  void line_up(const ConcordanceColumns& columns, const std::uint64_t* by_time, const std::uint64_t* by_risk);
  void place_entries(const ConcordanceColumns& columns, const std::uint64_t* by_time, const std::uint64_t* by_entry);

  std::vector<std::uint64_t> rows_;
  std::vector<std::uint32_t> ends_;  // of the strata
  std::vector<double> weights_;
  std::vector<double> event_weights_;
  std::vector<Entrance> entrances_;
  std::vector<std::size_t> entrance_ends_;
};

}  // namespace survcore::metrics
