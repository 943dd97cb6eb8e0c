// core/bfloat16.h: rounding to the nearest of the two neighbours, ties to even, and what is not finite.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>

#include "core/bfloat16.h"
#include "tests/check.h"

using namespace survcore;

namespace {

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float widened(uint16_t bits) { return from_bits(uint32_t(bits) << 16); }

// Every bfloat16 is itself, and between it and the next one halfway decides. Positive patterns are ordered as their
// values are, subnormal numbers included, and the one behind the largest finite number is infinity.
void test_all_finite() {
  const uint16_t sign = 0x8000;
  for (uint32_t upper = 0; upper < 0x7f80; ++upper) {
    const uint16_t down = static_cast<uint16_t>(upper), up = static_cast<uint16_t>(upper + 1);
    const uint16_t even = upper % 2 == 0 ? down : up;
    const uint32_t bits = upper << 16;
    bool right = to_bfloat16(from_bits(bits)) == down && to_bfloat16(from_bits(bits | 0x7fff)) == down &&
                 to_bfloat16(from_bits(bits | 0x8000)) == even && to_bfloat16(from_bits(bits | 0x8001)) == up &&
                 to_bfloat16(from_bits(bits | 0xffff)) == up;
    CHECK(right);
    right = to_bfloat16(-from_bits(bits)) == (sign | down) && to_bfloat16(-from_bits(bits | 0x8000)) == (sign | even) &&
            to_bfloat16(-from_bits(bits | 0x8001)) == (sign | up);
    CHECK(right);
  }
}

void test_values() {
  CHECK(widened(to_bfloat16(1.0f)) == 1.0f);
  CHECK(widened(to_bfloat16(1.00390625f)) == 1.0f);       // 1 + 2^-8: a tie
  CHECK(widened(to_bfloat16(1.01171875f)) == 1.015625f);  // 1 + 3 2^-8: a tie, to the even one above
  CHECK(to_bfloat16(0.0f) == 0 && to_bfloat16(-0.0f) == 0x8000);
  CHECK(std::isinf(widened(to_bfloat16(std::numeric_limits<float>::max()))));
}

void test_not_finite() {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(widened(to_bfloat16(infinity)) == infinity && widened(to_bfloat16(-infinity)) == -infinity);
  // Also those whose payload stands in the lower half only, or would overflow when rounded.
  for (const uint32_t bits : {0x7fc00000u, 0x7f800001u, 0x7f80ffffu, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    CHECK(std::isnan(widened(to_bfloat16(from_bits(bits)))));
    CHECK(to_bfloat16(from_bits(bits)) >> 15 == bits >> 31);
  }
}

}  // namespace

int main() {
  test_all_finite();
  test_values();
  test_not_finite();
  return failures();
}
