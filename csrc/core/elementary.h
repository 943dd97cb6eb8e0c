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

// value or 0, chosen by a mask: of a choice between numbers compilers make branches, and choices in all that follows.
template <class Real>
SURVCORE_SHARED Real kept_if(bool condition, Real value) {
  using Bits = typename Format<Real>::Bits;
  return bits_as<Real>(Bits(bits_as<Bits>(value) & (Bits(0) - Bits(condition))));
}

// exp(r) for |r| <= log(2) / 2: the polynomials 1 + r + ... whose largest relative error is smallest, 3e-9 and 4e-18.
// Summed in pairs, so that few operations wait for each other.
SURVCORE_SHARED float exp_reduced(float r) {
  const float r2 = r * r;
  const float low = 0.49999993446421650f + r * 0.16666520632015951f;
  const float high = (0.041668388281172038f + r * 0.0083687167231522325f) + r2 * 0.0013814587749867674f;
  return (1.0f + r) + r2 * (low + r2 * high);
}

SURVCORE_SHARED double exp_reduced(double r) {
  const double r2 = r * r;
  const double r4 = r2 * r2;
  const double low = (1.0 + r) + r2 * (0.50000000000000106265 + r * 0.16666666666666412745);
  const double middle = (0.04166666666653016623 + r * 0.008333333333494321045) +
                        r2 * (0.0013888888943627628442 + r * 0.00019841269506877061393);
  const double high = (2.4801493101844784484e-5 + r * 2.7557586115251582119e-6) +
                      r2 * (2.7630247234896179591e-7 + r * 2.5000140451347609697e-8);
  return low + r4 * (middle + r4 * high);
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

// exp(x) for x <= 0 where it is wanted, else 0, whatever x is. Results below the smallest normal number are 0.
template <class Real>
SURVCORE_SHARED Real exp_nonpositive(Real x, bool wanted = true) {
#if defined(__CUDA_ARCH__)
  return wanted ? exp(x) : Real(0);
#else
  using Format = detail::Format<Real>;
  using Bits = typename Format::Bits;
  // The integer n stands in the low bits of `shifted`, the exponent's bias on top; moved into the exponent field it is
  // the factor 2^n.
  constexpr Real magic = Format::round_magic + Real(Format::exponent_bias);
  const Real shifted = x * Real(1.44269504088896340736) + magic;
  const Real n = shifted - magic;
  const Real r = (x - n * Format::log2_high) - n * Format::log2_low;
  const Bits scale = detail::bits_as<Bits>(shifted) << Format::mantissa_bits;
  const Real result = detail::exp_reduced(r) * detail::bits_as<Real>(scale);
  return detail::kept_if(wanted & !(x < Format::smallest_exponent), result);
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

// 1 / x for x in [1, 2]: a parabola (relative error e = 0.0101), then 1 / (1 - e) as (1 + e) (1 + e^2), which leaves
// e^4; less than half of a division's cost.
template <class Real>
SURVCORE_SHARED Real reciprocal_of_one_to_two(Real x) {
#if defined(__CUDA_ARCH__)
  return Real(1) / x;
#else
  Real y = Real(2.12121212) + x * (Real(-1.45454545) + x * Real(0.32323232));
  constexpr int steps = sizeof(Real) == sizeof(float) ? 1 : 2;
  for (int step = 0; step < steps; ++step) {
    const Real e = Real(1) - x * y;
    const Real nearer = y + y * e;
    y = nearer + nearer * (e * e);
  }
  return y;
#endif
}

}  // namespace survcore
