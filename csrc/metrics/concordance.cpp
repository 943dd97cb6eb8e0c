#include "concordance.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "range_gains.h"
#include "rank_set.h"
#include "weight_set.h"

namespace survcore::metrics {

namespace {

// An event, and what shared its rank among the rows that it was compared with.
template <typename Amount>
struct Compared {
  std::uint32_t row;
  Amount same;
};

// Rows of weight 1.
class Survivors : public RankSet {
 public:
  using Amount = std::int64_t;
  explicit Survivors(const LineUp::Stratum& stratum) : RankSet(stratum.last - stratum.first) {}
  void insert(const LineUp& rows, std::uint32_t row) { RankSet::insert(rows.rank(row)); }
  void remove(const LineUp& rows, std::uint32_t row) { RankSet::remove(rows.rank(row)); }

  // Inserts the events of one time; tie(event, other, same): the weight of those before it of another rank, and of its
  // own.
  template <typename Tie>
  void insert_events(const LineUp& rows, std::vector<Compared<Amount>>& events, Tie tie) {
    Amount before = 0;
    for (const auto& event : events) {
      const Amount same = RankSet::same(rows.rank(event.row)) - event.same;
      tie(event.row, before++ - same, same);
      insert(rows, event.row);
    }
  }
};

// Rows with their weights.
class WeightedSurvivors : public WeightSet {
 public:
  using Amount = double;
  explicit WeightedSurvivors(const LineUp::Stratum& stratum)
      : WeightSet(stratum.last - stratum.first),
        first_(stratum.first),
        leaves_(stratum.entrances.empty() ? 0 : stratum.last - stratum.first) {}

  void insert(const LineUp& rows, std::uint32_t row) {
    const std::uint32_t leaf = WeightSet::insert(rows.rank(row), rows.weight(row));
    if (!leaves_.empty()) leaves_[row - first_] = leaf;
  }
  void remove(const LineUp&, std::uint32_t row) { WeightSet::remove(leaves_[row - first_]); }

  // As above, in the order of rank: a difference of sums would leave rounding where no two ranks differ.
  template <typename Tie>
  void insert_events(const LineUp& rows, std::vector<Compared<Amount>>& events, Tie tie) {
    const auto rank = [&rows](const Compared<Amount>& event) { return rows.rank(event.row); };
    std::sort(events.begin(), events.end(), [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
    Amount other = 0, same = 0;
    for (std::size_t i = 0; i < events.size(); ++i) {
      if (i > 0 && rank(events[i]) != rank(events[i - 1])) {
        other += same;
        same = 0;
      }
      tie(events[i].row, other, same);
      same += rows.weight(events[i].row);
      insert(rows, events[i].row);
    }
  }

 private:
  std::uint32_t first_;
  std::vector<std::uint32_t> leaves_;  // of the rows of the stratum, where some leave
};

// Events with their weights and what these count in pairs.
class WeightedEvents : public WeightSet {
 public:
  explicit WeightedEvents(const LineUp::Stratum& stratum) : WeightSet(stratum.last - stratum.first) {}
  void insert(const LineUp& rows, std::uint32_t row) {
    WeightSet::insert(rows.rank(row), rows.weight(row) * rows.event_weight(row));
  }
};

// Of all pairs with a row, the weight of the concordant less that of the discordant, and that of all comparable; the
// row's own weight left out.
struct Role {
  double net = 0.0;
  double comparable = 0.0;

  Role& operator+=(const Role& other) {
    net += other.net;
    comparable += other.comparable;
    return *this;
  }
};

// Rows that gather the pairs in which they outlive an event, from their entrance on.
class GatheringSurvivors {
 public:
  using Amount = std::uint32_t;
  explicit GatheringSurvivors(const LineUp::Stratum& stratum)
      : first_(stratum.first),
        used_(stratum.last - stratum.first, 0),
        leaves_(stratum.last - stratum.first),
        gains_(stratum.last - stratum.first) {}

  void insert(const LineUp& rows, std::uint32_t row) {
    const std::uint32_t rank = rows.rank(row);
    const std::uint32_t leaf = leaves_[row - first_] = rank + used_[rank]++;
    gains_.open(leaf);
  }

  void remove(const LineUp&, std::uint32_t row) {
    gathered_.push_back({row, gains_.collect(leaves_[row - first_])});
    leaves_[row - first_] = gone;
  }

  template <typename Tie>
  void insert_events(const LineUp& rows, std::vector<Compared<Amount>>& events, Tie) {
    for (const auto& event : events) insert(rows, event.row);
  }

  // Leaves of smaller rank, of the same, and of larger.
  Around<Amount> around(std::uint32_t rank) const {
    const auto leaves = static_cast<std::uint32_t>(leaves_.size());
    return {rank, used_[rank], leaves - rank - used_[rank]};
  }

  // All who are there outlive an event of that weight.
  void outlive(const Around<Amount>& leaves, double weight) {
    gains_.add(0, leaves.smaller, {weight, weight});
    gains_.add(leaves.smaller, leaves.smaller + leaves.same, {0, weight});
    gains_.add(leaves.smaller + leaves.same, leaves_.size(), {-weight, weight});
  }

  // Adds what every row of the stratum has gathered, all of them having been inserted.
  void add_to(std::vector<Role>& roles) {
    for (const auto& [row, gained] : gathered_) roles[row] += gained;
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
      if (leaves_[i] != gone) roles[first_ + i] += gains_.collect(leaves_[i]);
    }
  }

 private:
  static constexpr std::uint32_t gone = 0xffffffff;

  struct Gathered {
    std::uint32_t row;
    Role gained;
  };

  std::uint32_t first_;
  std::vector<std::uint32_t> used_;    // leaves of each rank
  std::vector<std::uint32_t> leaves_;  // of the rows
  RangeGains<Role> gains_;
  std::vector<Gathered> gathered_;  // by rows that were removed
};

// Calls compare(event, around) with what the rows hold that outlived the event and were under observation at its time,
// and tie(event, other, same) as Set does.
//
// When an event is compared, the set holds those of a later time that had entered, and those censored at its own time.
// Events of one time enter together, after all of them were compared.
template <typename Set, typename Compare, typename Tie>
void for_each_event(const LineUp& rows, const LineUp::Stratum& stratum, Set& outlived, Compare compare, Tie tie) {
  auto entrance = stratum.entrances.begin();
  std::vector<Compared<typename Set::Amount>> events;  // of the current time
  for (std::uint32_t row = stratum.first; row < stratum.last;) {
    for (; entrance != stratum.entrances.end() && entrance->place <= row; ++entrance) {
      outlived.remove(rows, entrance->row);
    }
    events.clear();
    bool continued;
    do {
      if (rows.event(row)) {
        events.push_back({row, 0});
      } else {
        outlived.insert(rows, row);
      }
      continued = rows.continued(row++);
    } while (continued);

    for (auto& event : events) {
      const auto around = outlived.around(rows.rank(event.row));
      event.same = around.same;
      compare(event.row, around);
    }
    outlived.insert_events(rows, events, tie);
  }
}

// Calls compare(row, around) with what the events hold that the row outlived, and entered(row, around) with those of
// them that were over before it came under observation. The difference is exact for counts; for weights with late
// entries see GatheringSurvivors.
template <typename Set, typename Compare, typename Entered>
void for_each_survivor(const LineUp& rows, const LineUp::Stratum& stratum, Compare compare, Entered entered) {
  Set events(stratum);
  auto entrance = stratum.entrances.rbegin();
  for (std::uint32_t last = stratum.last, first; last > stratum.first; last = first) {
    for (; entrance != stratum.entrances.rend() && entrance->place >= last; ++entrance) {
      entered(entrance->row, events.around(rows.rank(entrance->row)));
    }
    for (first = last - 1; first > stratum.first && rows.continued(first - 1); --first) {
    }
    for (std::uint32_t row = first; row < last; ++row) {
      if (rows.event(row)) compare(row, events.around(rows.rank(row)));
    }
    for (std::uint32_t row = first; row < last; ++row) {
      if (rows.event(row)) events.insert(rows, row);
    }
    for (std::uint32_t row = first; row < last; ++row) {
      if (!rows.event(row)) compare(row, events.around(rows.rank(row)));
    }
  }
}

template <typename Set, typename Number>
ConcordanceCounts<Number> counts_of(const LineUp& rows) {
  const auto weight = [&rows](std::uint32_t event) -> Number {
    if constexpr (std::is_integral_v<Number>) return 1;
    return static_cast<Number>(rows.weight(event) * rows.event_weight(event));
  };
  ConcordanceCounts<Number> counts;
  const auto compare = [&](std::uint32_t event, const auto& outlived) {
    counts.concordant += weight(event) * outlived.smaller;
    counts.discordant += weight(event) * outlived.larger;
    counts.tied_risk += weight(event) * outlived.same;
  };
  const auto tie = [&](std::uint32_t event, auto other, auto same) {
    counts.tied_time += weight(event) * other;
    counts.tied_both += weight(event) * same;
  };
  for (std::size_t stratum = 0; stratum < rows.strata(); ++stratum) {
    Set outlived(rows.stratum(stratum));
    for_each_event(rows, rows.stratum(stratum), outlived, compare, tie);
  }
  return counts;
}

template <typename Rows, typename Events>
double variance_of(const LineUp& rows) {
  std::vector<Role> roles(rows.size());
  Role total;
  const auto outlived = [&](std::uint32_t event, const auto& others) {
    const double own = rows.event_weight(event);
    Role& role = roles[event];
    role.net = own * static_cast<double>(others.smaller - others.larger);
    role.comparable = own * static_cast<double>(others.smaller + others.same + others.larger);
    total.net += rows.weight(event) * role.net;
    total.comparable += rows.weight(event) * role.comparable;
  };
  const auto survived = [&](std::uint32_t row, const auto& events) {
    roles[row].net += static_cast<double>(events.larger - events.smaller);
    roles[row].comparable += static_cast<double>(events.smaller + events.same + events.larger);
  };
  const auto missed = [&](std::uint32_t row, const auto& events) {
    roles[row].net -= static_cast<double>(events.larger - events.smaller);
    roles[row].comparable -= static_cast<double>(events.smaller + events.same + events.larger);
  };
  const auto no_tie = [](auto...) {};
  for (std::size_t index = 0; index < rows.strata(); ++index) {
    const LineUp::Stratum stratum = rows.stratum(index);
    Rows there(stratum);
    for_each_event(rows, stratum, there, outlived, no_tie);
    if (rows.weighted() && !stratum.entrances.empty()) {
      GatheringSurvivors gathering(stratum);
      const auto outlive = [&](std::uint32_t event, const auto& leaves) {
        gathering.outlive(leaves, rows.weight(event) * rows.event_weight(event));
      };
      for_each_event(rows, stratum, gathering, outlive, no_tie);
      gathering.add_to(roles);
    } else {
      for_each_survivor<Events>(rows, stratum, survived, missed);
    }
  }
  if (total.comparable == 0) return std::numeric_limits<double>::quiet_NaN();

  const double difference = total.net / total.comparable;  // Somers' d, twice the index less 1
  double variance = 0.0;
  for (std::size_t row = 0; row < rows.size(); ++row) {
    // Divided before it is squared, which small weights might not survive.
    const double influence =
        rows.weight(row) * (roles[row].net - difference * roles[row].comparable) / total.comparable;
    variance += influence * influence;
  }
  return variance / 4;
}

}  // namespace

ConcordanceCounts<std::int64_t> count_pairs(const LineUp& rows) { return counts_of<Survivors, std::int64_t>(rows); }

ConcordanceCounts<double> weigh_pairs(const LineUp& rows) {
  return rows.weighted() ? counts_of<WeightedSurvivors, double>(rows) : counts_of<Survivors, double>(rows);
}

double concordance_variance(const LineUp& rows) {
  if (rows.weighted()) return variance_of<WeightedSurvivors, WeightedEvents>(rows);
  if (rows.events_weighted()) return variance_of<Survivors, WeightedEvents>(rows);
  return variance_of<Survivors, Survivors>(rows);
}

}  // namespace survcore::metrics
