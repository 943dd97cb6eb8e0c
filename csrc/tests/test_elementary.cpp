// exp, log1p, logs and the reciprocal of core/elementary.h against the C library, over their whole domain and at its
// ends.
#include <initializer_list>
#include <limits>

#include "core/elementary.h"
#include "tests/check.h"

using namespace survcore;

template <class Real>
double units_in_last_place(Real actual, long double expected) {
  const Real rounded = static_cast<Real>(expected);
  const Real spacing = std::nextafter(std::fabs(rounded), std::numeric_limits<Real>::infinity()) - std::fabs(rounded);
  return static_cast<double>(std::fabs(static_cast<long double>(actual) - expected) /
                             static_cast<long double>(spacing));
}

template <class Real>
void test_exp(Real lowest) {
  double worst = 0;
  for (int i = 0; i <= 200000; ++i) {
    const Real x = lowest * Real(i) / Real(200000);
    worst = std::fmax(worst, units_in_last_place(exp_nonpositive(x), std::exp(static_cast<long double>(x))));
  }
  CHECK(worst <= 3.0);
  CHECK(exp_nonpositive(Real(0)) == Real(1));
  CHECK(exp_nonpositive(-std::numeric_limits<Real>::infinity()) == Real(0));
  CHECK(exp_nonpositive(Real(-1e4)) == Real(0));
  CHECK(std::isnan(exp_nonpositive(std::numeric_limits<Real>::quiet_NaN())));
}

template <class Real>
void test_log1p() {
  double worst = 0;
  for (int i = 0; i <= 200000; ++i) {
    const Real x = std::exp2(Real(-60) + Real(124) * Real(i) / Real(200000));  // 2^-60 .. 2^64
    worst = std::fmax(worst, units_in_last_place(log1p_nonnegative(x), std::log1p(static_cast<long double>(x))));
  }
  CHECK(worst <= 3.0);
  CHECK(log1p_nonnegative(Real(0)) == Real(0));
  CHECK(std::isnan(log1p_nonnegative(std::numeric_limits<Real>::quiet_NaN())));
}

void test_log() {
  double worst = 0;
  for (int i = 0; i <= 200000; ++i) {
    const double x = std::exp2(-1022 + 2045.9 * i / 200000.0);  // all normal numbers
    worst = std::fmax(worst, units_in_last_place(log_positive(x), std::log(static_cast<long double>(x))));
  }
  CHECK(worst <= 3.0);
  for (int i = 1; i < 100000; ++i) {  // around 1, where the logarithm itself is small
    const double x = 0.5 + i / 50000.0;
    worst = std::fmax(worst, units_in_last_place(log_positive(x), std::log(static_cast<long double>(x))));
  }
  CHECK(worst <= 3.0);
  CHECK(log_positive(1.0) == 0);
}

void test_sum_of_logs() {
  for (const int64_t count : {0, 1, 511, 512, 513, 5000}) {
    for (const double scale : {1e-300, 1e-5, 1.0, 1e5, 1e300}) {
      const auto value = [=](int64_t i) { return scale * (1.0 + static_cast<double>(i % 97)); };
      long double expected = 0;
      for (int64_t i = 0; i < count; ++i) expected += std::log(static_cast<long double>(value(i)));
      CHECK(std::fabs(sum_of_logs(count, value) - expected) <= 1e-14 * std::fabs(expected));
    }
  }
}

template <class Real>
void test_reciprocal() {
  double worst = 0;
  for (int i = 0; i <= 100000; ++i) {
    const Real x = Real(1) + Real(i) / Real(100000);
    worst = std::fmax(worst, units_in_last_place(reciprocal_of_one_to_two(x), 1.0L / static_cast<long double>(x)));
  }
  CHECK(worst <= 3.0);
  CHECK(std::isnan(reciprocal_of_one_to_two(std::numeric_limits<Real>::quiet_NaN())));
}

int main() {
  test_exp<float>(-87);
  test_exp<double>(-708);
  test_log1p<float>();
  test_log1p<double>();
  test_log();
  test_sum_of_logs();
  test_reciprocal<float>();
  test_reciprocal<double>();
  return failures();
}
