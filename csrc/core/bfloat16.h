// Rounding to bfloat16.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/platform.h"

namespace survcore {

// Nearest, ties to even; NaN stays NaN. Branch-free: a plain loop over it vectorises.
SURVCORE_SHARED uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

}  // namespace survcore
