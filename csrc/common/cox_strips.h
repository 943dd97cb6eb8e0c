// The partial likelihood in strips of consecutive positions, one for each thread of a GPU, for rows that enter at the
// beginning. What a strip must know of the others are sums that join in order, so that strips, blocks of them and all
// blocks are scanned alike:
//
//   sum_strip        hazards of a strip              -> joined from the left:  RunningRisk
//                                                       joined from the right: GroupRest
//   terms_of_strip   with these: loss, reciprocals   -> joined from the left:  OpenGroup
//                                                       joined from the right: LaterEvents
//   gradients_of_strip  with these: gradients
//
// Strips end anywhere, within tied events too: an event of a group takes the rows of its group that lie in other strips
// from the sums on both sides. Only positive terms are added.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/cox_plan.h"
#include "core/cox.h"
#include "core/platform.h"

namespace survcore {

// Choices between sums are made by assignment here: `condition ? a : b` as an argument chooses between addresses, which
// puts both into a GPU thread's local memory.

// What is read where the header of the risk sets cannot be looked at before.
template <class Real>
struct CoxRows {
  const Real* log_hazard;  // [rows]
  const Real* weights;     // [rows], or null: all 1
  const int32_t* header;   // [cox_header_size]
  const int32_t* order;    // [rows]
  const int32_t* start;    // [groups + 1]
  const int32_t* events;   // [groups]
  const int32_t* last;     // [rows], or null: rows enter at the beginning
  int32_t rows;
  bool efron;

  // Whether the risk sets are of these rows; nothing else of them may be read where they are not.
  SURVCORE_SHARED bool valid() const {
    return header[cox_rows] == rows && header[cox_error] == 0 && header[cox_groups] > 0 && header[cox_groups] <= rows &&
           (last != nullptr || !(header[cox_flags] & cox_truncated));
  }
  SURVCORE_SHARED int32_t groups() const { return header[cox_groups]; }
  SURVCORE_SHARED int32_t begin(int32_t group) const { return start[group] >> 1; }
  SURVCORE_SHARED int32_t group_of(int32_t position) const {
    int32_t low = 0;
    int32_t high = groups();
    while (high - low > 1) {
      const int32_t middle = low + (high - low) / 2;
      if (begin(middle) <= position) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
  SURVCORE_SHARED double weight(int32_t row) const { return weights ? static_cast<double>(weights[row]) : 1.0; }
};

// The sizes of log-hazards and of the weights that are not 0; whether all are what they may be.
struct CoxRange {
  double smallest = HUGE_VAL;
  double largest = -HUGE_VAL;
  double lightest = HUGE_VAL;
  double heaviest = 0;
  int32_t known = 1;

  SURVCORE_SHARED void add(double log_hazard, double weight) {
    if (!(log_hazard < HUGE_VAL) || !(weight >= 0 && weight < HUGE_VAL)) known = 0;
    smallest = log_hazard < smallest ? log_hazard : smallest;
    largest = log_hazard > largest ? log_hazard : largest;
    lightest = weight > 0 && weight < lightest ? weight : lightest;
    heaviest = weight > heaviest ? weight : heaviest;
  }
  SURVCORE_SHARED static CoxRange joined(const CoxRange& left, const CoxRange& right) {
    CoxRange both = left;
    both.smallest = right.smallest < both.smallest ? right.smallest : both.smallest;
    both.largest = right.largest > both.largest ? right.largest : both.largest;
    both.lightest = right.lightest < both.lightest ? right.lightest : both.lightest;
    both.heaviest = right.heaviest > both.heaviest ? right.heaviest : both.heaviest;
    both.known = left.known & right.known;
    return both;
  }
};

// What is subtracted from all log-hazards, whether their relative hazards may then be added as they are (PlainSum), and
// whether there is a result at all: with a log-hazard that is NaN or infinite there is none.
struct CoxScale {
  double shift = 0;
  int32_t plain = 0;
  int32_t known = 0;
};

SURVCORE_SHARED CoxScale scale_for(const CoxRange& range, bool valid) {
  CoxScale scale;
  scale.known = valid && range.known;
  scale.plain = range.smallest > -HUGE_VAL && range.largest - range.smallest < 600 && log(range.lightest) > -40 &&
                log(range.heaviest) < 40;
  scale.shift = scale.plain ? range.largest : 0;
  return scale;
}

// Consecutive positions, and the group of the first one.
struct CoxStrip {
  int32_t first;
  int32_t end;
  int32_t group;
};

// What begins in a strip.
enum CoxBegins : int32_t { begins_group = 1, begins_stratum = 2 };

// Of the positions up to somewhere: hazards since the last beginning of a stratum, hazards and weight of the events
// since the last beginning of a group.
template <class Sum>
struct RunningRisk {
  Sum at_risk;
  Sum tied;
  double weight = 0;
  int32_t begins = 0;

  SURVCORE_SHARED static RunningRisk joined(const RunningRisk& left, const RunningRisk& right) {
    RunningRisk both = right;
    if (!(right.begins & begins_group)) {
      both.tied = left.tied;
      both.tied.add(right.tied);
      both.weight = left.weight + right.weight;
    }
    if (!(right.begins & begins_stratum)) {
      both.at_risk = left.at_risk;
      both.at_risk.add(right.at_risk);
    }
    both.begins |= left.begins;
    return both;
  }
};

// Of the positions from somewhere on, up to the first beginning of a group: hazards, those of events and the events'
// weight. They belong to the group that is open there.
template <class Sum>
struct GroupRest {
  Sum at_risk;
  Sum tied;
  double weight = 0;
  int32_t begins = 0;

  SURVCORE_SHARED static GroupRest joined(const GroupRest& left, const GroupRest& right) {
    GroupRest both = left;
    if (!left.begins) {
      both.at_risk.add(right.at_risk);
      both.tied.add(right.tied);
      both.weight += right.weight;
    }
    both.begins |= right.begins;
    return both;
  }
};

// Of the events up to somewhere, since the last beginning of a group: the sum of weight / A_l, which their group's rows
// take, and of (1 - c_l) weight / A_l, which its events take.
template <class Sum>
struct OpenGroup {
  Sum all;
  Sum kept;
  int32_t begins = 0;

  SURVCORE_SHARED static OpenGroup joined(const OpenGroup& left, const OpenGroup& right) {
    OpenGroup both = right;
    if (!right.begins) {
      both.all = left.all;
      both.all.add(right.all);
      both.kept = left.kept;
      both.kept.add(right.kept);
    }
    both.begins |= left.begins;
    return both;
  }
};

// Of the events from somewhere on, up to the first beginning of a stratum: the sum of weight / A_l as a row before them
// takes it, and as an event of the group that is open there takes it.
template <class Sum>
struct LaterEvents {
  Sum all;
  Sum kept;
  int32_t begins = 0;

  SURVCORE_SHARED static LaterEvents joined(const LaterEvents& left, const LaterEvents& right) {
    LaterEvents both = left;
    if (!(left.begins & begins_stratum)) {
      Sum seen = right.kept;
      if (left.begins & begins_group) seen = right.all;
      both.all.add(right.all);
      both.kept.add(seen);
    }
    both.begins |= right.begins;
    return both;
  }
};

// The loss, and the weight of the events.
struct LossSums {
  double loss = 0;
  double weight = 0;

  SURVCORE_SHARED static LossSums joined(const LossSums& left, const LossSums& right) {
    LossSums both;
    both.loss = left.loss + right.loss;
    both.weight = left.weight + right.weight;
    return both;
  }
  SURVCORE_SHARED double divisor(bool mean) const { return mean && weight > 0 ? weight : 1; }
};

// Some of the d tied events of a group, number l having A_l = S - c_l E = S * rest: the sums of 1 / rest, of
// (1 - c_l) / rest and of log(rest). E / S is the share.
struct TiedTerms {
  double plain = 0;
  double kept = 0;
  double logs = 0;

  SURVCORE_SHARED static TiedTerms joined(const TiedTerms& left, const TiedTerms& right) {
    TiedTerms both;
    both.plain = left.plain + right.plain;
    both.kept = left.kept + right.kept;
    both.logs = left.logs + right.logs;
    return both;
  }

  // Of events first, first + step, ..
  SURVCORE_SHARED void add(int32_t first, int32_t end, int32_t step, int32_t events, bool efron, double share) {
    if (!efron || events == 1) {
      const double count = first < end ? static_cast<double>((end - first - 1) / step + 1) : 0.0;
      plain += count;
      kept += count;
      return;
    }
    for (int32_t l = first; l < end; l += step) {
      const double fraction = static_cast<double>(l) / events;
      const double rest = 1 - fraction * share;  // at least 1 / d
      const double reciprocal = 1 / rest;
      plain += reciprocal;
      kept += (1 - fraction) * reciprocal;
      logs += log(rest);
    }
  }
};

// What positions first .. end - 1, events of a group with the sum `origin` belongs to, add to the loss themselves.
template <class Real>
SURVCORE_SHARED void add_distances(const CoxRows<Real>& rows, double shift, double origin, int32_t first, int32_t end,
                                   int32_t step, LossSums& loss) {
  for (int32_t position = first; position < end; position += step) {
    const int32_t row = rows.order[position] >> 1;
    const double weight = rows.weight(row);
    if (weight == 0) continue;
    loss.loss += weight * (origin - (static_cast<double>(rows.log_hazard[row]) - shift));
    loss.weight += weight;
  }
}

// weight * e^log_hazard of a row.
template <class Sum, class Real>
SURVCORE_SHARED Sum hazard_of(const CoxRows<Real>& rows, double shift, int32_t row, double weight) {
  Sum hazard;
  hazard.add_exp(weight, static_cast<double>(rows.log_hazard[row]) - shift);
  return hazard;
}

// The part of a group that lies in a strip.
struct CoxPart {
  int32_t first;
  int32_t end;
  int32_t group_end;
  int32_t begins;  // CoxBegins, 0 where the group began before
};

template <class Real>
SURVCORE_SHARED CoxPart part_of(const CoxRows<Real>& rows, CoxStrip strip, int32_t group) {
  const int32_t code = rows.start[group];
  const int32_t begin = code >> 1;
  CoxPart part;
  part.first = begin < strip.first ? strip.first : begin;
  part.group_end = rows.begin(group + 1);
  part.end = part.group_end < strip.end ? part.group_end : strip.end;
  part.begins = begin < strip.first ? 0 : begins_group | ((code & 1) ? begins_stratum : 0);
  return part;
}

// Adds a part of a group to what was before it.
template <class Sum, class Real>
SURVCORE_SHARED void add_part(const CoxRows<Real>& rows, double shift, CoxPart part, RunningRisk<Sum>& risk) {
  if (part.begins) {
    risk.tied = Sum();
    risk.weight = 0;
  }
  if (part.begins & begins_stratum) risk.at_risk = Sum();
  risk.begins |= part.begins;
  for (int32_t position = part.first; position < part.end; ++position) {
    const int32_t code = rows.order[position];
    const double weight = rows.weight(code >> 1);
    const Sum hazard = hazard_of<Sum>(rows, shift, code >> 1, weight);
    risk.at_risk.add(hazard);
    if (code & 1) {
      risk.tied.add(hazard);
      risk.weight += weight;
    }
  }
}

template <class Sum, class Real>
SURVCORE_SHARED void sum_strip(const CoxRows<Real>& rows, double shift, CoxStrip strip, RunningRisk<Sum>& running,
                               GroupRest<Sum>& rest) {
  running = RunningRisk<Sum>();
  const auto take_rest = [&] {
    rest.at_risk = running.at_risk;
    rest.tied = running.tied;
    rest.weight = running.weight;
  };
  for (int32_t position = strip.first, group = strip.group; position < strip.end; ++group) {
    const CoxPart part = part_of(rows, strip, group);
    if (part.begins && !running.begins) take_rest();
    add_part(rows, shift, part, running);
    position = part.end;
  }
  if (!running.begins) take_rest();
  rest.begins = running.begins & begins_group;
}

// `running` is of all positions before the strip, `rest` of those after it. Leaves the sums of each part of a group at
// the part's first position.
template <class Sum, class Real>
SURVCORE_SHARED void terms_of_strip(const CoxRows<Real>& rows, double shift, CoxStrip strip, RunningRisk<Sum> running,
                                    const GroupRest<Sum>& rest,
                                    Sum* all,   // [rows]
                                    Sum* kept,  // [rows]
                                    OpenGroup<Sum>& open, LaterEvents<Sum>& later, LossSums& loss) {
  open = OpenGroup<Sum>();
  later = LaterEvents<Sum>();
  for (int32_t position = strip.first, group = strip.group; position < strip.end; ++group) {
    const CoxPart part = part_of(rows, strip, group);
    add_part(rows, shift, part, running);
    const int32_t events = rows.events[group];
    const int32_t group_first = part.group_end - events;  // of the group's events
    const int32_t first = group_first < part.first ? part.first : group_first;
    Sum part_all;
    Sum part_kept;
    if (first < part.end) {
      Sum at_risk = running.at_risk;
      Sum tied = running.tied;
      double weight = running.weight;
      if (part.group_end > strip.end) {
        at_risk.add(rest.at_risk);
        tied.add(rest.tied);
        weight += rest.weight;
      }
      if (weight > 0) {
        const double mean_weight = weight / events;
        TiedTerms terms;
        terms.add(first - group_first, part.end - group_first, 1, events, rows.efron,
                  rows.efron && events > 1 ? tied.over(at_risk) : 0.0);
        part_all.add_quotient(mean_weight * terms.plain, at_risk);
        part_kept.add_quotient(mean_weight * terms.kept, at_risk);
        loss.loss += mean_weight * ((part.end - first) * at_risk.log_rest() + terms.logs);
        add_distances(rows, shift, at_risk.origin(), first, part.end, 1, loss);
      }
    }
    if (all != nullptr) {
      all[part.first] = part_all;
      kept[part.first] = part_kept;
    }
    if (part.begins) open = OpenGroup<Sum>();
    open.begins |= part.begins;
    open.all.add(part_all);
    open.kept.add(part_kept);
    later.begins |= part.begins;
    if (!(later.begins & begins_stratum)) {
      later.all.add(part_all);
      if (later.begins) part_kept = part_all;
      later.kept.add(part_kept);
    }
    position = part.end;
  }
}

// The gradient of a row for which the events at risk sum to `events`.
template <class Sum, class Real>
SURVCORE_SHARED Real cox_gradient(const CoxRows<Real>& rows, double shift, int32_t row, bool event, const Sum& events,
                                  double divisor) {
  const double weight = rows.weight(row);
  if (weight == 0) return Real(0);
  const double exponent = static_cast<double>(rows.log_hazard[row]) - shift;
  return static_cast<Real>(weight * (events.times_exp(exponent) - (event ? 1.0 : 0.0)) / divisor);
}

// `open` is of all positions before the strip, `later` of those after it.
template <class Sum, class Real>
SURVCORE_SHARED void gradients_of_strip(const CoxRows<Real>& rows, double shift, CoxStrip strip,
                                        const OpenGroup<Sum>& open, LaterEvents<Sum> later,
                                        const Sum* all,   // [rows]
                                        const Sum* kept,  // [rows]
                                        double divisor,
                                        Real* gradient) {  // [rows]
  int32_t group = strip.group;
  while (rows.begin(group + 1) < strip.end) ++group;
  for (; group >= strip.group; --group) {
    const CoxPart part = part_of(rows, strip, group);
    Sum of_events = later.kept;
    of_events.add(kept[part.first]);
    later.all.add(all[part.first]);
    Sum of_others = later.all;
    if (!part.begins) {
      of_events.add(open.kept);
      of_others.add(open.all);
    }
    for (int32_t position = part.first; position < part.end; ++position) {
      const int32_t code = rows.order[position];
      Sum events = of_others;
      if (code & 1) events = of_events;
      gradient[code >> 1] = cox_gradient(rows, shift, code >> 1, code & 1, events, divisor);
    }
    if (part.begins & begins_stratum) later.all = Sum();
    later.kept = later.all;
  }
}

}  // namespace survcore
