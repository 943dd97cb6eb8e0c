#include "concordance.h"

#include <vector>

#include "order.h"
#include "rank_set.h"

namespace survcore::metrics {

namespace {

// A row as the counting loop meets it, in one word, so that the loop reads forward: rank, event, and whether the next
// row has the same time.
constexpr std::uint64_t event_bit = 2;
constexpr std::uint64_t continued_bit = 1;

// Writes the rows by decreasing time over risk_order.
void line_up(const double* time, const bool* event, const double* risk, const std::uint64_t* time_order,
             std::uint64_t* risk_order, std::size_t count) {
  std::vector<std::uint32_t> ranks(count);
  for (std::size_t i = 0, first = 0; i < count; ++i) {
    if (!same_value(risk, risk_order[i], risk_order[first])) first = i;
    ranks[row_of(risk_order[i])] = static_cast<std::uint32_t>(first);
  }
  std::uint64_t* rows = risk_order;
  for (std::size_t i = count; i-- > 0;) {
    const std::uint32_t row = row_of(time_order[i]);
    const bool continued = i > 0 && same_value(time, time_order[i], time_order[i - 1]);
    *rows++ = std::uint64_t{ranks[row]} << 2 | (event[row] ? event_bit : 0) | (continued ? continued_bit : 0);
  }
}

}  // namespace

// When an event is compared, the set holds exactly the rows that outlived it: those of a later time and those censored
// at its own time. Events of one time enter together, after all of them were compared.
ConcordanceCounts concordance_counts(const double* time, const bool* event, const double* risk,
                                     const std::uint64_t* time_order, std::uint64_t* risk_order, std::size_t count) {
  line_up(time, event, risk, time_order, risk_order, count);
  const std::uint64_t* rows = risk_order;

  ConcordanceCounts counts;
  RankSet outlived(count);
  std::int64_t inserted = 0;
  std::vector<std::uint32_t> events;  // ranks of the events of the current time
  for (std::size_t i = 0; i < count;) {
    events.clear();
    bool continued;
    do {
      const auto rank = static_cast<std::uint32_t>(rows[i] >> 2);
      if (rows[i] & event_bit) {
        events.push_back(rank);
      } else {
        outlived.insert(rank);
        ++inserted;
      }
      continued = rows[i++] & continued_bit;
    } while (continued);

    for (const std::uint32_t rank : events) {
      const std::int64_t lower = outlived.smaller(rank);
      const std::int64_t same = outlived.same(rank);
      counts.concordant += lower;
      counts.tied_risk += same;
      counts.discordant += inserted - lower - same;
      counts.tied_both -= same;
    }
    // What an event finds at its own rank on entering, beyond the rows compared above, are earlier events of this time.
    for (const std::uint32_t rank : events) {
      counts.tied_both += outlived.same(rank);
      outlived.insert(rank);
    }
    const auto tied = static_cast<std::int64_t>(events.size());
    inserted += tied;
    counts.tied_time += tied * (tied - 1) / 2;
  }
  counts.tied_time -= counts.tied_both;
  return counts;
}

}  // namespace survcore::metrics
