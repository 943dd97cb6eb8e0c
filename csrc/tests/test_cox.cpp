// core/cox.h: both kinds of sums against long double, at exponents of any size, and the terms of tied events.
#include <cmath>
#include <initializer_list>
#include <limits>

#include "core/cox.h"
#include "tests/check.h"

using namespace survcore;

namespace {

bool close(double actual, long double expected, double tolerance = 1e-14) {
  return std::fabs(actual - expected) <= tolerance * std::fabs(expected);
}

template <class Sum>
double log_of(const Sum& sum) {
  return sum.origin() + sum.log_rest();
}

template <class Sum>
void test_sum() {
  Sum sum;
  Sum parts[2];
  long double expected = 0;
  for (int i = 0; i < 200; ++i) {
    const double exponent = 20 * std::sin(i);
    const double factor = i % 5;  // 0 too
    sum.add_exp(factor, exponent);
    parts[i % 2].add_exp(factor, exponent);
    expected += factor * std::exp(static_cast<long double>(exponent));
  }
  parts[0].add(parts[1]);
  CHECK(close(log_of(sum), std::log(expected)));
  CHECK(close(log_of(parts[0]), std::log(expected)));
  CHECK(close(sum.times_exp(-3), std::exp(-3.0L) * expected));
  CHECK(close(parts[1].over(sum), std::exp(static_cast<long double>(log_of(parts[1]))) / expected, 1e-13));
  Sum quotient;
  quotient.add_quotient(2.5, sum);
  CHECK(close(quotient.times_exp(0), 2.5L / expected));
  CHECK(Sum().times_exp(1) == 0);
  quotient.add(Sum());
  CHECK(close(quotient.times_exp(0), 2.5L / expected));
}

void test_pair_at_any_size() {
  for (const double size : {-1e5, -1e4, 1e4, 1e5}) {
    PairSum sum;
    sum.add_exp(3, size);
    sum.add_exp(2, size - 1);
    sum.add_exp(1, -std::fabs(size) - 1e6);
    CHECK(sum.origin() == size);
    CHECK(close(sum.log_rest(), std::log(3 + 2 * std::exp(-1.0L))));
    PairSum quotient;
    quotient.add_quotient(1, sum);
    CHECK(close(quotient.times_exp(size), 1 / (3 + 2 * std::exp(-1.0L))));
    CHECK(sum.over(sum) == 1);
  }
  // Increments that no double holds.
  PairSum crowd;
  crowd.add_exp(4, 1e4);
  const BaselineTerms terms = baseline_terms(1, 2.0, true, crowd, crowd);
  CHECK(close(terms.log_hazard, std::log(0.5L) - 1e4L));
  CHECK(close(terms.log_variance, std::log(0.125L) - 2e4L));
  PairSum nobody;
  nobody.add_exp(1, -std::numeric_limits<double>::infinity());
  CHECK(nobody.times_exp(5) == 0);
}

// Against the formula: sum over l of w log(S - l / d E), w / (S - l / d E) and l / d times that.
template <class Sum>
void test_tied_events(bool efron, int events) {
  const long double at_risk = 10;
  const long double tied = 7;
  const double weight = 1.5;
  Sum risk;
  risk.add_exp(10, 0);
  Sum own_events;
  own_events.add_exp(7, 0);
  Sum reciprocals;
  Sum own;
  const double loss =
      add_tied_events(events, weight, efron, risk, own_events, reciprocals, own) + weight * risk.origin();
  const BaselineTerms baseline = baseline_terms(events, weight, efron, risk, own_events);
  long double expected[4] = {};
  for (int l = 0; l < events; ++l) {
    const long double fraction = efron ? static_cast<long double>(l) / events : 0;
    const long double denominator = at_risk - fraction * tied;
    expected[0] += weight / events * std::log(denominator);
    expected[1] += weight / events / denominator;
    expected[2] += weight / events * fraction / denominator;
    expected[3] += weight / events / (denominator * denominator);
  }
  CHECK(close(loss, expected[0]));
  CHECK(close(reciprocals.times_exp(0), expected[1]));
  CHECK(close(own.times_exp(0), expected[2]));
  CHECK(close(baseline.log_hazard, std::log(expected[1])));
  CHECK(close(baseline.log_variance, std::log(expected[3])));
}

}  // namespace

int main() {
  test_sum<PlainSum>();
  test_sum<PairSum>();
  test_pair_at_any_size();
  for (const bool efron : {false, true}) {
    for (const int events : {1, 2, 5, 1000}) {
      test_tied_events<PlainSum>(efron, events);
      test_tied_events<PairSum>(efron, events);
    }
  }
  return failures();
}
