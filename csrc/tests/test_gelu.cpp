// core/gelu.h: the error function against the C library's in long double, over its whole domain and at its ends, and
// the values of GELU.
#include <cmath>
#include <initializer_list>
#include <limits>

#include "core/gelu.h"
#include "tests/check.h"

using namespace survcore;

namespace {

template <class Real>
constexpr Real infinity = std::numeric_limits<Real>::infinity();
template <class Real>
constexpr Real nan_value = std::numeric_limits<Real>::quiet_NaN();

template <class Real>
void test_error_function(Real error) {
  long double worst = 0, worst_relative = 0;
  bool odd = true, bounded = true;
  for (int i = 1; i <= 200000; ++i) {
    const Real x = Real(6) * Real(i) / Real(200000);
    const long double expected = std::erf(static_cast<long double>(x));
    const long double difference = std::fabs(static_cast<long double>(error_function(x)) - expected);
    worst = std::fmax(worst, difference);
    worst_relative = std::fmax(worst_relative, difference / expected);
    odd = odd && error_function(-x) == -error_function(x);
    bounded = bounded && error_function(x) <= Real(1);
  }
  CHECK(worst <= error);
  CHECK(worst_relative <= error);
  CHECK(odd && bounded);
  for (const Real x : {Real(1e-30), Real(1e-10), Real(1e-3)}) {  // small arguments keep their digits
    CHECK(std::fabs(static_cast<long double>(error_function(x)) / std::erf(static_cast<long double>(x)) - 1) <= error);
  }
  CHECK(error_function(Real(0)) == Real(0));
  CHECK(std::signbit(error_function(Real(-0.0))));
  for (const Real x : {Real(6), Real(40), std::numeric_limits<Real>::max(), infinity<Real>}) {
    CHECK(error_function(x) == Real(1));
    CHECK(error_function(-x) == Real(-1));
  }
  CHECK(std::isnan(error_function(nan_value<Real>)));
}

template <class Real>
void test_gelu(Real error) {
  long double worst = 0;
  for (int i = -80000; i <= 80000; ++i) {
    const Real x = Real(i) / Real(10000);
    const long double wide = x;
    const long double expected = wide * (1 + std::erf(wide / std::sqrt(2.0L))) / 2;
    const long double difference = std::fabs(static_cast<long double>(gelu(x)) - expected);
    worst = std::fmax(worst, difference / std::fmax(1.0L, std::fabs(wide)));
  }
  CHECK(worst <= error);
  CHECK(gelu(Real(0)) == Real(0));
  CHECK(gelu(infinity<Real>) == infinity<Real>);
  CHECK(std::isnan(gelu(nan_value<Real>)));
  // Far out it is x or nothing: what 1 + erf is wrong by would grow with x.
  for (const Real x : {Real(10), Real(1e4), Real(1e30)}) {
    CHECK(gelu(x) == x);
    CHECK(gelu(-x) == Real(0));
  }
}

}  // namespace

int main() {
  test_error_function<float>(4e-7f);
  test_error_function<double>(4e-16);
  test_gelu<float>(4e-7f);
  test_gelu<double>(4e-16);
  return failures();
}
