// core/hazard.h: which bins a row reads, sums of softplus, and gradients against difference quotients.
#include <cmath>
#include <initializer_list>
#include <limits>

#include "core/hazard.h"
#include "tests/check.h"

using namespace survcore;

namespace {

const double infinity = std::numeric_limits<double>::infinity();
const double nan_value = std::numeric_limits<double>::quiet_NaN();

bool same(HazardRow row, int32_t begin, int32_t end, int32_t flipped) {
  return row.begin == begin && row.end == end && row.flipped == flipped;
}

void test_rows() {
  const HazardForm likelihood{false, false};
  CHECK(same(hazard_row(2, kObserved, likelihood), 0, 3, 2));
  CHECK(same(hazard_row(2, kCensored, likelihood), 0, 3, -1));
  CHECK(same(hazard_row(2, kCensored, HazardForm{true, false}), 0, 2, -1));
  CHECK(same(hazard_row(2, kObserved, HazardForm{true, false}), 0, 3, 2));
  CHECK(same(hazard_row(2, kObserved, HazardForm{false, true}), 2, 3, 2));
  CHECK(same(hazard_row(2, kCensored, HazardForm{false, true}), 0, 3, -1));
}

void test_validity() {
  CHECK(hazard_row_valid(0, kObserved, 1));
  CHECK(!hazard_row_valid(1, kObserved, 1));
  CHECK(!hazard_row_valid(-1, kCensored, 5));
  CHECK(!hazard_row_valid(int64_t(1) << 40, kCensored, 5));
  const int32_t largest = std::numeric_limits<int32_t>::max();
  CHECK(!hazard_row_valid(largest, kObserved, largest));
  CHECK(hazard_row(largest, kObserved, HazardForm{false, false}).flipped == largest);  // defined, if meaningless
  CHECK(!hazard_row_valid(0, event_of(nan_value), 5));
  CHECK(event_of(0.0) == kCensored && event_of(1.0) == kObserved && event_of(int64_t(2)) == kObserved);
}

void test_softplus_sum() {
  SoftplusSum<double> sum;
  double expected = 0;
  for (int j = 0; j < 300; ++j) {
    const double y = std::sin(j) * 30;
    sum.add(y, true);
    expected += std::fmax(y, 0.0) + std::log1p(std::exp(-std::fabs(y)));
    if ((j + 1) % SoftplusSum<double>::capacity == 0) sum.fold();
  }
  CHECK(std::fabs(sum.value() / expected - 1) < 1e-14);

  SoftplusSum<double> small;  // a product of (1 + a) would lose these
  small.add(-50, true);
  small.add(-60, true);
  CHECK(std::fabs(small.value() / (std::exp(-50.0) + std::exp(-60.0)) - 1) < 1e-14);

  SoftplusSum<double> limits;
  limits.add(-infinity, true);
  limits.add(nan_value, false);
  CHECK(limits.value() == 0);
  limits.add(infinity, true);
  CHECK(limits.value() == infinity);
  limits.add(nan_value, true);
  CHECK(std::isnan(limits.value()));
}

void test_gradient() {
  const auto loss = [](double x, bool flipped) {
    SoftplusSum<double> sum;
    sum.add(flipped ? -x : x, true);
    return sum.value();
  };
  for (const double x : {-20.0, -1.5, 0.0, 0.3, 2.0, 20.0}) {
    for (const bool flipped : {false, true}) {
      const double step = 1e-5;
      const double quotient = (loss(x + step, flipped) - loss(x - step, flipped)) / (2 * step);
      CHECK(std::fabs(hazard_gradient(x, 1.0, flipped, true) - quotient) < 1e-9);
      CHECK(hazard_gradient(x, -3.0, flipped, true) == -3.0 * hazard_gradient(x, 1.0, flipped, true));
    }
  }
  CHECK(hazard_gradient(infinity, 1.0, false, true) == 1);
  CHECK(hazard_gradient(infinity, 1.0, true, true) == 0);
  CHECK(hazard_gradient(-infinity, 1.0, false, true) == 0);
  CHECK(hazard_gradient(nan_value, 1.0, false, false) == 0);
  CHECK(std::isnan(hazard_gradient(nan_value, 1.0, false, true)));
  CHECK(hazard_divisor(0) == 1 && hazard_divisor(2.5) == 2.5);
}

// The loop body that kernels vectorise is the sum and the gradient.
void test_add_bin() {
  double linear = 0;
  double product = 0;
  SoftplusSum<double> sum;
  for (int j = 0; j < 60; ++j) {
    const double x = std::sin(j) * 9;
    const bool flipped = j % 3 == 0;
    const bool active = j % 4 != 0;
    CHECK(add_bin(x, flipped, active, -0.7, linear, product) == hazard_gradient(x, -0.7, flipped, active));
    sum.add(flipped ? -x : x, active);
  }
  CHECK(linear == sum.linear && product == sum.product_minus_one);
  CHECK(add_bin(nan_value, true, false, infinity, linear, product) == 0);
  CHECK(linear == sum.linear && product == sum.product_minus_one);
}

}  // namespace

int main() {
  test_rows();
  test_validity();
  test_softplus_sum();
  test_gradient();
  test_add_bin();
  return failures();
}
