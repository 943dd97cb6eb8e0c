// exp(x) where the caller knows that x lies far from overflow and underflow: without the limits that exp_nonpositive
// (core/elementary.h) keeps watch over.
#pragma once

#include "core/elementary.h"

namespace survcore {

// |x| <= 87 in float, 708 in double; NaN gives NaN. Within 3 units in the last place.
template <class Real>
SURVCORE_SHARED Real exp_within(Real x) {
#if defined(__CUDA_ARCH__)
  return exp(x);
#else
  using Format = detail::Format<Real>;
  using Bits = typename Format::Bits;
  const Real shifted = x * Real(1.44269504088896340736) + Format::round_magic;
  const Real n = shifted - Format::round_magic;
  const Real r = (x - n * Format::log2_high) - n * Format::log2_low;
  const Bits scale =
      (detail::bits_as<Bits>(shifted) << Format::mantissa_bits) + (Format::exponent_bias << Format::mantissa_bits);
  return detail::exp_reduced(r) * detail::bits_as<Real>(scale);
#endif
}

}  // namespace survcore
