// exp(x) for x <= 0, log(1 + x) for x >= 0, log(x) and 1 / x on [1, 2]: what stable log-likelihoods and their gradients
// are made of.
//
// On the host they are branch-free polynomials, so that a plain loop over them vectorises for whatever instruction set
// it is compiled for; on the device they are CUDA's. Errors stay within 3 units in the last place. NaN gives NaN,
// exp(-inf) is 0.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/platform.h"

namespace survcore {

namespace detail {

template <class To, class From>
SURVCORE_SHARED To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "bits_as keeps the size");
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

// Constants per type. Adding and subtracting `round_magic` rounds to the nearest integer, which then stands in the low
// bits.
template <class Real>
struct Format;

template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr Bits exponent_bias = 127;
  static constexpr Bits half_root_two = 0x3f3504f3;  // bits of sqrt(1/2)
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23
  static constexpr float smallest_exponent = -87.0f;
  static constexpr float log2_high = 0.693359375f;  // few bits: n * log2_high is exact
  static constexpr float log2_low = -2.12194440e-4f;
};

template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr Bits exponent_bias = 1023;
  static constexpr Bits half_root_two = 0x3fe6a09e667f3bcd;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double smallest_exponent = -708.0;
  static constexpr double log2_high = 0.693145751953125;
  static constexpr double log2_low = 1.42860682030941723212e-6;
};

// exp(r) for |r| <= log(2) / 2: Taylor's series, whose remainder is below half a unit in the last place.
SURVCORE_SHARED float exp_reduced(float r) {
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  return p * r + 1.0f;
}

SURVCORE_SHARED double exp_reduced(double r) {
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  return p * r + 1.0;
}

// atanh(s) / s - 1 as a series in s^2, for |s| <= (sqrt(2) - 1) / (sqrt(2) + 1).
SURVCORE_SHARED float atanh_tail(float square) {
  float p = 1.0f / 9;
  p = p * square + 1.0f / 7;
  p = p * square + 1.0f / 5;
  p = p * square + 1.0f / 3;
  return p * square;
}

SURVCORE_SHARED double atanh_tail(double square) {
  double p = 1.0 / 21;
  p = p * square + 1.0 / 19;
  p = p * square + 1.0 / 17;
  p = p * square + 1.0 / 15;
  p = p * square + 1.0 / 13;
  p = p * square + 1.0 / 11;
  p = p * square + 1.0 / 9;
  p = p * square + 1.0 / 7;
  p = p * square + 1.0 / 5;
  p = p * square + 1.0 / 3;
  return p * square;
}

}  // namespace detail

// exp(x) for x <= 0. Results below the smallest normal number are 0.
template <class Real>
SURVCORE_SHARED Real exp_nonpositive(Real x) {
#if defined(__CUDA_ARCH__)
  return exp(x);
#else
  using Format = detail::Format<Real>;
  using Bits = typename Format::Bits;
  const Real clamped = x < Format::smallest_exponent ? Format::smallest_exponent : x;
  const Real shifted = clamped * Real(1.44269504088896340736) + Format::round_magic;
  const Real n = shifted - Format::round_magic;
  const Real r = (clamped - n * Format::log2_high) - n * Format::log2_low;
  // The integer n stands in the low bits of `shifted`; moved into the exponent field it is the factor 2^n.
  const Bits scale =
      (detail::bits_as<Bits>(shifted) << Format::mantissa_bits) + (Format::exponent_bias << Format::mantissa_bits);
  const Real result = detail::exp_reduced(r) * detail::bits_as<Real>(scale);
  return x < Format::smallest_exponent ? Real(0) : result;
#endif
}

// log(1 + x) for finite x >= 0, accurate for small x.
template <class Real>
SURVCORE_SHARED Real log1p_nonnegative(Real x) {
#if defined(__CUDA_ARCH__)
  return log1p(x);
#else
  using Format = detail::Format<Real>;
  using Bits = typename Format::Bits;
  const Real u = Real(1) + x;
  const Real lost = (x - (u - Real(1))) / u;  // what rounding 1 + x lost, to first order
  // u = 2^n * m with m in [sqrt(1/2), sqrt(2)); n is at least 0, so that it can be read as the low bits of a large
  // number.
  const Bits offset = detail::bits_as<Bits>(u) - Format::half_root_two;
  const Bits exponent = offset >> Format::mantissa_bits;
  const Real m = detail::bits_as<Real>(Bits(detail::bits_as<Bits>(u) - (exponent << Format::mantissa_bits)));
  const Real n =
      detail::bits_as<Real>(Bits(detail::bits_as<Bits>(Format::round_magic) + exponent)) - Format::round_magic;
  const Real s = (m - Real(1)) / (m + Real(1));
  const Real logarithm = Real(2) * (s + s * detail::atanh_tail(s * s));
  return n * Format::log2_high + (logarithm + (n * Format::log2_low + lost));
#endif
}

// log(x) for normal x > 0.
SURVCORE_SHARED double log_positive(double x) {
#if defined(__CUDA_ARCH__)
  return log(x);
#else
  using Format = detail::Format<double>;
  using Bits = Format::Bits;
  // x = 2^n * m with m in [sqrt(1/2), sqrt(2)). The exponent is moved into the positive range, to be read as the low
  // bits of a large number.
  const Bits offset =
      detail::bits_as<Bits>(x) + (Format::exponent_bias << Format::mantissa_bits) - Format::half_root_two;
  const Bits exponent = offset >> Format::mantissa_bits;
  const double m =
      detail::bits_as<double>(Bits(detail::bits_as<Bits>(x) + (Format::exponent_bias << Format::mantissa_bits) -
                                   (exponent << Format::mantissa_bits)));
  const double n = detail::bits_as<double>(Bits(detail::bits_as<Bits>(Format::round_magic) + exponent)) -
                   (Format::round_magic + static_cast<double>(Format::exponent_bias));
  const double s = (m - 1.0) / (m + 1.0);
  const double logarithm = 2.0 * (s + s * detail::atanh_tail(s * s));
  return n * Format::log2_high + (logarithm + n * Format::log2_low);
#endif
}

// Sum of log(value(i)) over [0, count) for normal positive values: exponents are added and mantissas multiplied, so
// that 512 values share one logarithm.
template <class Value>
SURVCORE_SHARED double sum_of_logs(int64_t count, const Value& value) {
  using Format = detail::Format<double>;
  using Bits = Format::Bits;
  constexpr Bits one = Format::exponent_bias << Format::mantissa_bits;
  constexpr Bits mantissa = (Bits(1) << Format::mantissa_bits) - 1;
  double sum = 0;
  for (int64_t first = 0; first < count; first += 512) {
    const int64_t last = first + 512 < count ? first + 512 : count;
    Bits exponents = 0;
    double product = 1;  // of numbers in [1, 2)
#if !defined(__CUDACC__)
#pragma omp simd reduction(+ : exponents) reduction(* : product)
#endif
    for (int64_t i = first; i < last; ++i) {
      const Bits bits = detail::bits_as<Bits>(static_cast<double>(value(i)));
      exponents += bits >> Format::mantissa_bits;
      product *= detail::bits_as<double>(Bits((bits & mantissa) | one));
    }
    const auto exponent =
        static_cast<int64_t>(exponents) - (last - first) * static_cast<int64_t>(Format::exponent_bias);
    sum += log(product) + static_cast<double>(exponent) * 0.69314718055994530942;
  }
  return sum;
}

// 1 / x for x in [1, 2]: a parabola (relative error 0.0101) and Newton steps, which square the error; a third of a
// division's cost.
template <class Real>
SURVCORE_SHARED Real reciprocal_of_one_to_two(Real x) {
#if defined(__CUDA_ARCH__)
  return Real(1) / x;
#else
  Real y = Real(2.12121212) + x * (Real(-1.45454545) + x * Real(0.32323232));
  constexpr int steps = sizeof(Real) == sizeof(float) ? 2 : 4;
  for (int step = 0; step < steps; ++step) y = y + y * (Real(1) - x * y);
  return y;
#endif
}

}  // namespace survcore
