// Products of few rows in bfloat16 on the processor's matrix tiles (AMX): 16 or 32 rows at once against a panel of 32
// columns, accumulated in float32. What remains is the time to read the weights.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "common/dispatch.h"
#include "core/bfloat16.h"
#include "core/denoiser_layout.h"

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#define SURVCORE_HAS_TILES 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define SURVCORE_TARGET_TILES __attribute__((target("amx-tile,amx-bf16"), noinline))
#else
#define SURVCORE_HAS_TILES 0
#endif

namespace survcore {

// Two weights of one column, as BFloat16Pair, to be multiplied by tiles.
struct BFloat16Tile {
  uint32_t bits;
};

constexpr int64_t tile_rows = 16;
constexpr int64_t tile_depth = 32;

#if SURVCORE_HAS_TILES

// Whether processor and kernel have tiles; asks the kernel once for this process's permission.
inline bool have_tiles() {
  static const bool answer = [] {
    unsigned int a, b, c, d;
    constexpr unsigned int bf16_and_tile = (1u << 22) | (1u << 24);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bf16_and_tile) != bf16_and_tile) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return answer;
}

// Tiles 0 to 3 hold sums (rows 0-15 and 16-31 by columns 0-15 and 16-31), 4 and 5 left rows, 6 and 7 weights. Of fewer
// than 16 rows no more are loaded and stored.
SURVCORE_TARGET_TILES inline void configure_tiles(int64_t rows) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } configuration;
  if (rows < tile_rows) {
    for (const int tile : {0, 1, 4}) configuration.rows[tile] = static_cast<uint8_t>(rows);
  }
  asm volatile("" ::"r"(&configuration) : "memory");  // the intrinsic does not say that it reads all of it
  _tile_loadconfig(&configuration);
}

SURVCORE_TARGET_TILES inline void release_tiles() { _tile_release(); }

// output[rows, columns] = bias + left[rows, depth] matrix[depth, columns], in whole panels, with configured tiles. left
// in bfloat16, strides in entries; rows a multiple of 16, depth one of 32.
SURVCORE_TARGET_TILES inline void multiply_tiles(const uint16_t* left, int64_t left_stride, int64_t rows,
                                                 const BFloat16Tile* matrix, int64_t depth, int64_t columns,
                                                 const float* bias, float* output, int64_t output_stride) {
  asm volatile("" ::: "memory");
  const int64_t left_bytes = left_stride * 2, output_bytes = output_stride * 4;
  constexpr int64_t panel_row_bytes = pack_panel_columns * 4;
  for (int64_t column = 0; column < columns; column += pack_panel_columns) {
    for (int64_t row = 0; row < rows; row += 2 * tile_rows) {
      const bool both = row + tile_rows < rows;
      if (bias) {  // the same row for all: stride 0
        _tile_loadd(0, bias + column, 0);
        _tile_loadd(1, bias + column + 16, 0);
        _tile_loadd(2, bias + column, 0);
        _tile_loadd(3, bias + column + 16, 0);
      } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
      const uint16_t* upper = left + row * left_stride;
      const uint16_t* lower = upper + tile_rows * left_stride;
      const BFloat16Tile* weights = matrix;
      for (int64_t k = 0; k < depth; k += tile_depth, weights += tile_depth / 2 * pack_panel_columns) {
        _tile_loadd(4, upper + k, left_bytes);
        _tile_loadd(6, weights, panel_row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, weights + 16, panel_row_bytes);
        _tile_dpbf16ps(1, 4, 7);
        if (both) {
          _tile_loadd(5, lower + k, left_bytes);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
      }
      float* place = output + row * output_stride + column;
      _tile_stored(0, place, output_bytes);
      _tile_stored(1, place + 16, output_bytes);
      if (both) {
        _tile_stored(2, place + tile_rows * output_stride, output_bytes);
        _tile_stored(3, place + tile_rows * output_stride + 16, output_bytes);
      }
    }
    matrix += depth / 2 * pack_panel_columns;
  }
  asm volatile("" ::: "memory");
}

#else

inline bool have_tiles() { return false; }
inline void configure_tiles(int64_t) {}
inline void release_tiles() {}
inline void multiply_tiles(const uint16_t*, int64_t, int64_t, const BFloat16Tile*, int64_t, int64_t, const float*,
                           float*, int64_t) {}

#endif

}  // namespace survcore
