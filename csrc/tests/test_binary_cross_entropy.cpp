// core/binary_cross_entropy.h: logarithms, both tails, targets between 0 and 1, and gradients against difference
// quotients.
#include <cmath>
#include <initializer_list>
#include <limits>

#include "core/binary_cross_entropy.h"
#include "tests/check.h"

using namespace survcore;

namespace {

const double infinity = std::numeric_limits<double>::infinity();
const double nan_value = std::numeric_limits<double>::quiet_NaN();

bool near(double value, double expected, double tolerance) {
  return std::fabs(value - expected) <= tolerance * std::fabs(expected);
}

void test_logarithm() {
  for (int i = 0; i <= 100'000; ++i) {
    const double a = i / 100'000.0;
    CHECK(near(log1p_of_zero_to_one(a), std::log1p(a), 6e-16));
    const float b = static_cast<float>(a);
    CHECK(near(log1p_of_zero_to_one(b), std::log1p(static_cast<double>(b)), 2e-7));
  }
  for (const double a : {1e-300, 1e-20, 1e-8}) CHECK(near(log1p_of_zero_to_one(a), a, 1e-7));
  CHECK(log1p_of_zero_to_one(0.0) == 0 && std::isnan(log1p_of_zero_to_one(nan_value)));
}

void test_tails() {
  CHECK(near(cross_entropy(-50.0, false, 1.0).loss, std::exp(-50.0), 1e-14));
  CHECK(near(cross_entropy(50.0, true, 3.0).loss, 3 * std::exp(-50.0), 1e-14));
  CHECK(near(cross_entropy(50.0, true, 3.0).gradient, -3 * std::exp(-50.0), 1e-14));
  CHECK(cross_entropy(1e4, false, 1.0).loss == 1e4 && cross_entropy(1e4, false, 1.0).gradient == 1);
  CHECK(cross_entropy(-1e4, true, 2.0).loss == 2e4 && cross_entropy(-1e4, true, 2.0).gradient == -2);
}

void test_limits() {
  CHECK(cross_entropy(infinity, true, 1.0).loss == 0 && cross_entropy(infinity, true, 1.0).gradient == 0);
  CHECK(cross_entropy(-infinity, false, 1.0).loss == 0);
  CHECK(cross_entropy(infinity, false, 1.0).loss == infinity && cross_entropy(infinity, false, 1.0).gradient == 1);
  CHECK(cross_entropy(infinity, 1.0, 1.0).loss == 0 && cross_entropy(-infinity, 0.0, 1.0).loss == 0);
  CHECK(cross_entropy(infinity, 0.25, 1.0).loss == infinity && cross_entropy(infinity, 0.25, 1.0).gradient == 0.75);
  CHECK(std::isnan(cross_entropy(nan_value, false, 1.0).loss) && std::isnan(cross_entropy(nan_value, 0.5, 1.0).loss));
  CHECK(std::isnan(cross_entropy(0.5, nan_value, 1.0).loss) && std::isnan(cross_entropy(0.5, nan_value, 1.0).gradient));
}

void test_values_and_gradients() {
  for (const double x : {-20.0, -1.5, 0.0, 0.3, 2.0, 20.0}) {
    const double positive = std::log1p(std::exp(-x)), negative = std::log1p(std::exp(x));
    for (const double target : {0.0, 0.2, 0.5, 1.0}) {
      const auto loss = [&](double at) { return cross_entropy(at, target, 2.5).loss; };
      CHECK(near(loss(x), 2.5 * target * positive + (1 - target) * negative, 1e-13));
      const double step = 1e-5;
      const double gradient = cross_entropy(x, target, 2.5).gradient;
      CHECK(std::fabs(gradient - (loss(x + step) - loss(x - step)) / (2 * step)) < 1e-9);
      if (target == 0 || target == 1) {
        const CrossEntropy<double> binary = cross_entropy(x, target == 1, 2.5);
        CHECK(near(binary.loss, loss(x), 1e-15) && near(binary.gradient, gradient, 1e-15));
      }
    }
  }
}

}  // namespace

int main() {
  test_logarithm();
  test_tails();
  test_limits();
  test_values_and_gradients();
  return failures();
}
