// The partial likelihood with late entries, each row held to each group: a row is at risk at the events of the groups
// from its own to its last one. rows * groups comparisons, additions only, no order of the rows by their entries; what
// a GPU's threads do for one group, or one row, with a tile of the others.
#pragma once

#include <cstdint>

#include "common/cox_strips.h"

namespace survcore {

// How the rows' tiles are dealt out where there are too few groups for all blocks: in parts, whose sums are added up
// afterwards.
SURVCORE_SHARED int32_t pair_parts(int32_t group_tiles, int32_t row_tiles, int32_t blocks) {
  const int32_t parts = group_tiles < blocks ? blocks / group_tiles : 1;
  return parts < row_tiles ? parts : row_tiles;
}

// Adds to a group's risk set those of `count` rows that are in it.
template <class Sum>
SURVCORE_SHARED void add_rows(int32_t group,
                              const int32_t* own,   // [count], group of each row
                              const int32_t* last,  // [count]
                              const Sum* hazards,   // [count]
                              int32_t count, Sum& at_risk) {
  for (int32_t i = 0; i < count; ++i) {
    if (own[i] <= group && group <= last[i]) at_risk.add(hazards[i]);
  }
}

// Adds to what a row takes from the events at which it is at risk that of `count` groups from `first` on; from its own
// group, which an event takes another share of, nothing.
template <class Sum>
SURVCORE_SHARED void add_groups(int32_t own, int32_t last, int32_t first,
                                const Sum* reciprocals,  // [count]
                                int32_t count, Sum& events) {
  for (int32_t i = 0; i < count; ++i) {
    if (own < first + i && first + i <= last) events.add(reciprocals[i]);
  }
}

// A sum that is scanned by itself.
template <class Sum>
struct JoinedSum {
  Sum sum;

  SURVCORE_SHARED static JoinedSum joined(const JoinedSum& left, const JoinedSum& right) {
    JoinedSum both = left;
    both.sum.add(right.sum);
    return both;
  }
};

// Hazards and weight of a group's events.
template <class Sum>
struct GroupEvents {
  Sum tied;
  double weight = 0;

  SURVCORE_SHARED static GroupEvents joined(const GroupEvents& left, const GroupEvents& right) {
    GroupEvents both = left;
    both.tied.add(right.tied);
    both.weight += right.weight;
    return both;
  }

  // The events at positions first, first + step, ..
  template <class Real>
  SURVCORE_SHARED void add(const CoxRows<Real>& rows, double shift, int32_t first, int32_t end, int32_t step) {
    for (int32_t position = first; position < end; position += step) {
      const int32_t row = rows.order[position] >> 1;
      const double own = rows.weight(row);
      tied.add(hazard_of<Sum>(rows, shift, row, own));
      weight += own;
    }
  }
};

}  // namespace survcore
