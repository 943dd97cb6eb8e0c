// common/cox_strips.h and common/cox_pairs.h, what the CUDA kernels of cox_ph_loss are made of, as loops: strips that
// end anywhere, scanned in blocks as a GPU scans them, and tiles of rows and groups, against the partial likelihood one
// row after the other (common/cox_serial.h).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "common/cox_pairs.h"
#include "common/cox_serial.h"
#include "common/cox_strips.h"
#include "tests/check.h"

using namespace survcore;

namespace {

struct Cohort {
  std::vector<double> log_hazard;
  std::vector<double> weights;  // or none
  std::vector<int> time;
  std::vector<int> event;
  std::vector<int> stratum;
  std::vector<int> entry;  // at risk at times after it; or none
};

// Risk sets as common/cox_plan.h lays them out.
std::vector<int32_t> plan_of(const Cohort& cohort) {
  const auto rows = static_cast<int32_t>(cohort.time.size());
  std::vector<int32_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    if (cohort.stratum[a] != cohort.stratum[b]) return cohort.stratum[a] < cohort.stratum[b];
    if (cohort.time[a] != cohort.time[b]) return cohort.time[a] > cohort.time[b];
    return cohort.event[a] < cohort.event[b];
  });
  std::vector<int32_t> plan(CoxSections<int32_t>::size(rows, !cohort.entry.empty()));
  const CoxSections<int32_t> sections{plan.data(), rows};
  int32_t groups = 0;
  int32_t all_events = 0;
  bool begins = true;
  std::vector<int32_t> group_of(rows);
  for (int32_t position = 0; position < rows; ++position) {
    const int32_t row = order[position];
    const bool last = position + 1 == rows;
    sections.order()[position] = 2 * row + cohort.event[row];
    sections.events()[groups] += cohort.event[row];
    all_events += cohort.event[row];
    if (position == 0) sections.start()[0] = 1;
    group_of[position] = groups;
    const bool ends_stratum = last || cohort.stratum[order[position + 1]] != cohort.stratum[row];
    const bool ends = ends_stratum || (cohort.event[row] && cohort.time[order[position + 1]] != cohort.time[row]);
    begins = ends_stratum && !last;
    if (ends) sections.start()[++groups] = 2 * (position + 1) + begins;
  }
  int32_t* header = sections.header();
  header[cox_rows] = rows;
  header[cox_groups] = groups;
  header[cox_events] = all_events;
  header[cox_flags] = cohort.entry.empty() ? 0 : cox_truncated;
  for (int32_t position = 0; position < rows && !cohort.entry.empty(); ++position) {
    int32_t last = group_of[position] - 1;
    for (int32_t group = group_of[position]; group < groups; ++group) {
      const int32_t row = order[sections.start()[group + 1] / 2 - 1];
      if (cohort.stratum[row] != cohort.stratum[order[position]]) break;
      if (sections.events()[group] > 0 && cohort.time[row] <= cohort.entry[order[position]]) break;
      last = group;
    }
    sections.last()[position] = last;
  }
  return plan;
}

// The values before each (from_left) or after it, joined in blocks of `width` as common/cuda_scan.h does.
template <bool from_left, class T>
std::vector<T> scanned(const std::vector<T>& values, int64_t width) {
  const auto count = static_cast<int64_t>(values.size());
  const auto joined = [](const T& nearer, const T& farther) {
    return from_left ? T::joined(farther, nearer) : T::joined(nearer, farther);
  };
  // From here on in the order in which values are met.
  const auto place = [=](int64_t i) { return from_left ? i : count - 1 - i; };
  std::vector<T> inclusive(count);
  for (int64_t i = 0; i < count; ++i) inclusive[i] = values[place(i)];
  for (int64_t offset = 1; offset < width; offset *= 2) {
    std::vector<T> next = inclusive;
    for (int64_t i = 0; i < count; ++i) {
      if (i % width >= offset) next[i] = joined(inclusive[i], inclusive[i - offset]);
    }
    inclusive = next;
  }
  std::vector<T> result(count);
  T carried;
  for (int64_t first = 0; first < count; first += width) {
    const int64_t end = std::min(count, first + width);
    for (int64_t i = first; i < end; ++i) {
      result[place(i)] = joined(i > first ? inclusive[i - 1] : T(), carried);
    }
    carried = joined(inclusive[end - 1], carried);
  }
  return result;
}

template <class Sum>
double loss_in_strips(const CoxRows<double>& rows, double shift, bool mean, int32_t length, int64_t width,
                      std::vector<double>& gradient) {
  std::vector<CoxStrip> strips;
  for (int32_t first = 0; first < rows.rows; first += length) {
    strips.push_back({first, std::min(rows.rows, first + length), rows.group_of(first)});
  }
  const std::size_t count = strips.size();
  std::vector<RunningRisk<Sum>> running(count);
  std::vector<GroupRest<Sum>> rest(count);
  std::vector<OpenGroup<Sum>> open(count);
  std::vector<LaterEvents<Sum>> later(count);
  for (std::size_t i = 0; i < count; ++i) sum_strip(rows, shift, strips[i], running[i], rest[i]);
  running = scanned<true>(running, width);
  rest = scanned<false>(rest, width);
  std::vector<Sum> all(rows.rows);
  std::vector<Sum> kept(rows.rows);
  LossSums total;
  for (std::size_t i = 0; i < count; ++i) {
    LossSums loss;
    terms_of_strip(rows, shift, strips[i], running[i], rest[i], all.data(), kept.data(), open[i], later[i], loss);
    total = LossSums::joined(total, loss);
  }
  open = scanned<true>(open, width);
  later = scanned<false>(later, width);
  const double divisor = total.divisor(mean);
  for (std::size_t i = 0; i < count; ++i) {
    gradients_of_strip(rows, shift, strips[i], open[i], later[i], all.data(), kept.data(), divisor, gradient.data());
  }
  return total.loss / divisor;
}

template <class Sum>
double loss_in_pairs(const CoxRows<double>& rows, double shift, bool mean, int32_t tile, int32_t blocks,
                     std::vector<double>& gradient) {
  const int32_t groups = rows.groups();
  std::vector<int32_t> own(rows.rows);
  std::vector<Sum> hazards(rows.rows);
  for (int32_t position = 0; position < rows.rows; ++position) {
    const int32_t row = rows.order[position] >> 1;
    own[position] = rows.group_of(position);
    hazards[position] = hazard_of<Sum>(rows, shift, row, rows.weight(row));
  }
  const int32_t row_tiles = (rows.rows - 1) / tile + 1;
  const int32_t parts = pair_parts((groups - 1) / tile + 1, row_tiles, blocks);
  CHECK(parts >= 1 && parts <= row_tiles);
  std::vector<Sum> all(groups);
  std::vector<Sum> kept(groups);
  LossSums total;
  constexpr int lanes = 4;
  for (int32_t group = 0; group < groups; ++group) {
    Sum at_risk;
    for (int32_t part = 0; part < parts; ++part) {
      Sum sum;
      for (int32_t i = part; i < row_tiles; i += parts) {
        const int32_t first = i * tile;
        if (own[first] >= (group / tile + 1) * tile) break;
        add_rows(group, own.data() + first, rows.last + first, hazards.data() + first,
                 std::min(tile, rows.rows - first), sum);
      }
      at_risk.add(sum);
    }
    const int32_t events = rows.events[group];
    const int32_t end = rows.begin(group + 1);
    GroupEvents<Sum> tied;
    for (int32_t lane = 0; lane < lanes; ++lane) {
      GroupEvents<Sum> part;
      part.add(rows, shift, end - events + lane, end, lanes);
      tied = GroupEvents<Sum>::joined(tied, part);
    }
    if (!(tied.weight > 0)) continue;
    const double share = rows.efron && events > 1 ? tied.tied.over(at_risk) : 0.0;
    TiedTerms terms;
    for (int32_t lane = 0; lane < lanes; ++lane) {
      TiedTerms part;
      part.add(lane, events, lanes, events, rows.efron, share);
      terms = TiedTerms::joined(terms, part);
      add_distances(rows, shift, at_risk.origin(), end - events + lane, end, lanes, total);
    }
    const double mean_weight = tied.weight / events;
    all[group].add_quotient(mean_weight * terms.plain, at_risk);
    kept[group].add_quotient(mean_weight * terms.kept, at_risk);
    total.loss += tied.weight * at_risk.log_rest() + mean_weight * terms.logs;
  }
  const double divisor = total.divisor(mean);
  for (int32_t position = 0; position < rows.rows; ++position) {
    const int32_t last = rows.last[position];
    Sum events;
    for (int32_t first = own[position] / tile * tile; first <= last; first += tile) {
      add_groups(own[position], last, first, all.data() + first, std::min(tile, groups - first), events);
    }
    const int32_t code = rows.order[position];
    const bool event = code & 1;
    if (own[position] <= last) events.add(event ? kept[own[position]] : all[own[position]]);
    gradient[code >> 1] = cox_gradient(rows, shift, code >> 1, event, events, divisor);
  }
  return total.loss / divisor;
}

bool close(double actual, double expected, double scale) {
  if (std::isnan(expected)) return std::isnan(actual);
  if (std::isinf(expected)) return actual == expected;
  return std::fabs(actual - expected) <= 1e-12 * scale;
}

void check_same(double loss, const std::vector<double>& gradient, double expected_loss,
                const std::vector<double>& expected) {
  double largest = 1;
  for (const double value : expected) largest = std::isfinite(value) ? std::max(largest, std::fabs(value)) : largest;
  CHECK(close(loss, expected_loss, std::max(1.0, std::fabs(expected_loss))));
  bool same = true;
  for (std::size_t i = 0; i < expected.size(); ++i) same = same && close(gradient[i], expected[i], largest);
  CHECK(same);
}

template <class Sum>
void test_sums(const Cohort& cohort, double shift) {
  const std::vector<int32_t> plan = plan_of(cohort);
  const auto count = static_cast<int32_t>(cohort.time.size());
  const CoxPlan sections{plan.data(), count};
  const double* weights = cohort.weights.empty() ? nullptr : cohort.weights.data();
  for (const bool efron : {true, false}) {
    for (const bool mean : {true, false}) {
      const CoxProblem<double> problem{cohort.log_hazard.data(), weights,         sections, count,
                                       plan[cox_groups],         plan[cox_flags], efron};
      std::vector<double> expected(count);
      const double loss = serial_loss<Sum>(problem, shift, mean, expected.data());
      const bool late = !cohort.entry.empty();
      const CoxRows<double> rows{cohort.log_hazard.data(),
                                 weights,
                                 sections.header(),
                                 sections.order(),
                                 sections.start(),
                                 sections.events(),
                                 late ? sections.last() : nullptr,
                                 count,
                                 efron};
      CHECK(rows.valid());
      for (const int32_t length : {1, 2, 3, 8, 50, 1000}) {
        for (const int width : {2, 4, 32}) {
          if (late && width == 4) continue;
          std::vector<double> gradient(count, std::numeric_limits<double>::quiet_NaN());
          const double actual = late ? loss_in_pairs<Sum>(rows, shift, mean, length, 6 * width, gradient)
                                     : loss_in_strips<Sum>(rows, shift, mean, length, width, gradient);
          check_same(actual, gradient, loss, expected);
        }
      }
    }
  }
}

// As the kernels choose.
void test(const Cohort& cohort, bool plain) {
  CoxRange range;
  for (std::size_t i = 0; i < cohort.time.size(); ++i) {
    CoxRange one;
    one.add(cohort.log_hazard[i], cohort.weights.empty() ? 1.0 : cohort.weights[i]);
    range = CoxRange::joined(range, one);
  }
  const CoxScale scale = scale_for(range, true);
  CHECK(scale.known);
  CHECK(scale.plain == plain);
  if (scale.plain) test_sums<PlainSum>(cohort, scale.shift);
  test_sums<PairSum>(cohort, 0);
}

Cohort cohort_of(int rows, int times, int strata, bool weighted, bool late, double span, unsigned seed) {
  std::mt19937 random(seed);
  const auto below = [&](int limit) { return static_cast<int>(random() % static_cast<unsigned>(limit)); };
  Cohort cohort;
  for (int row = 0; row < rows; ++row) {
    cohort.log_hazard.push_back(span * (below(1000) / 1000.0 - 0.5));
    if (weighted) cohort.weights.push_back(below(4) * 0.7);
    cohort.time.push_back(1 + below(times));
    cohort.event.push_back(below(2));
    cohort.stratum.push_back(below(strata));
    if (late) cohort.entry.push_back(below(cohort.time.back()));
  }
  return cohort;
}

void test_extremes() {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const bool late : {false, true}) {
    Cohort cohort = cohort_of(6, 3, 1, false, late, 1.0, 7);
    cohort.event.assign(6, 1);
    cohort.log_hazard[2] = -infinity;
    test(cohort, false);
    cohort.log_hazard.assign(6, -infinity);
    test(cohort, false);
    cohort.log_hazard = {1e4, -1e4, 1e4, -1e4, 0, 1e4};
    test(cohort, false);
    cohort.weights = {1, 0, 2, 0, 1, 0.5};
    test(cohort, false);
    cohort.log_hazard = {0, 1e4, 1, 2, 9e3, -3};
    test(cohort, false);
    cohort.log_hazard = {0, 1, 2, 3, 4, 5};
    cohort.weights.assign(6, 0.0);
    test(cohort, true);
    cohort.weights.clear();
    cohort.event.assign(6, 0);
    test(cohort, true);
  }
}

void test_range() {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const auto scale = [](double low, double high, double weight) {
    CoxRange range;
    range.add(low, weight);
    range.add(high, 0);
    return scale_for(range, true);
  };
  CHECK(scale(0, 599, 1).plain && scale(0, 599, 1).shift == 599 && scale(0, 599, 1).known);
  CHECK(!scale(0, 601, 1).plain && scale(0, 601, 1).shift == 0 && scale(0, 601, 1).known);
  CHECK(!scale(-infinity, 0, 1).plain && scale(-infinity, 0, 1).known);
  CHECK(!scale(0, 1, 1e18).plain && !scale(0, 1, 1e-18).plain);
  CHECK(!scale(0, infinity, 1).known && !scale(0, std::nan(""), 1).known);
  CHECK(!scale(0, 1, -1).known && !scale(0, 1, infinity).known && !scale(0, 1, std::nan("")).known);
  CHECK(!scale_for(CoxRange(), false).known);
}

}  // namespace

int main() {
  unsigned seed = 0;
  for (const bool late : {false, true}) {
    for (const double span : {3.0, 590.0, 5e3}) {
      for (const int strata : {1, 3}) {
        for (const int times : {1, 4, 300}) {
          test(cohort_of(150, times, strata, seed % 2 == 1, late, span, seed), span < 600);
          ++seed;
        }
      }
    }
    test(cohort_of(1, 1, 1, false, late, 0.0, 3), true);
    test(cohort_of(40, 3, 40, true, late, 2.0, 4), true);
  }
  test_extremes();
  test_range();
  return failures();
}
