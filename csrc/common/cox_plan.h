// Risk sets as one int32 tensor, built once by cox_risk_sets and read by cox_ph_loss.
//
// Positions are the rows sorted by stratum, then falling time, at one time events last. A group is a run of positions
// that ends with the events of one time: its rows enter the risk set together, and its events share that risk set,
// which is everything from the first group of the stratum up to this one. The rows of a stratum after its last event
// are a group without events.
#pragma once

#include <cstdint>

namespace survcore {

enum CoxHeader : int64_t {
  cox_rows,
  cox_groups,
  cox_events,
  cox_flags,
  cox_error,      // CoxError, 0 where there is none
  cox_error_row,  // the first row with it
  cox_header_size
};

enum CoxFlag : int32_t {
  cox_in_order = 1,  // position p is row p
  cox_tied = 2,      // some group has several events
  cox_stratified = 4,
  cox_truncated = 8,  // some row leaves the risk set before its stratum ends
};

enum class CoxError : int32_t { none, time, event, entry, entry_not_before_time };

// Sections, one after the other:
//   header  [cox_header_size]
//   order   [rows]      2 * row + (1 for an event) at each position
//   start   [rows + 2]  2 * first position + (1 where a stratum begins) of each group; one more for the end
//   events  [rows + 1]  events of each group
//   last    [rows]      last group at whose events the position is at risk; only with left truncation
template <class Int>
struct CoxSections {
  Int* data;
  int64_t rows;

  static int64_t size(int64_t rows, bool entry) { return cox_header_size + 3 * rows + 3 + (entry ? rows : 0); }

  Int* header() const { return data; }
  Int* order() const { return data + cox_header_size; }
  Int* start() const { return order() + rows; }
  Int* events() const { return start() + rows + 2; }
  Int* last() const { return events() + rows + 1; }
};

using CoxPlan = CoxSections<const int32_t>;

}  // namespace survcore
