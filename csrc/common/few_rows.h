// Products of few rows (a patient's draws) with large packed matrices, in which the time goes into reading the matrix:
// each panel of 32 columns (core/denoiser_layout.h) is read once, front to back, for up to twelve rows at a time, whose
// sums stay in registers. A row's sum is formed in the same order whatever rows stand beside it.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "common/dispatch.h"
#include "core/denoiser_layout.h"

namespace survcore {

// Two weights of one column, rows k and k + 1, the first in the low half.
struct BFloat16Pair {
  uint32_t bits;
};

template <class Weight>
constexpr int64_t weights_per_entry = std::is_same_v<Weight, BFloat16Pair> ? 2 : 1;

template <class Real>
struct LeftRows {
  const Real* data;
  int64_t stride;
};

constexpr int most_rows_at_once = 12;

// One panel: output[rows, 32] = bias[32] + left[rows, depth] panel[depth, 32], in vectors of `bytes`; no bias is null.
template <int bytes, int rows, class Weight, class Real>
SURVCORE_INLINE void multiply_panel(LeftRows<Real> left, const Weight* panel, int64_t depth, const Real* bias,
                                    Real* output, int64_t output_stride) {
  typedef Real Vector __attribute__((vector_size(bytes), aligned(alignof(Real)), may_alias));
  typedef uint32_t Bits __attribute__((vector_size(bytes), aligned(4), may_alias));
  constexpr int64_t lanes = bytes / sizeof(Real);
  constexpr int64_t vectors = 2;
  for (int64_t first = 0; first < pack_panel_columns; first += vectors * lanes) {
    Vector sum[rows][vectors];
#pragma GCC unroll 12
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
      for (int64_t v = 0; v < vectors; ++v)
        sum[row][v] = bias ? *reinterpret_cast<const Vector*>(bias + first + v * lanes) : Vector{};
    }
    for (int64_t k = 0; k < depth; k += weights_per_entry<Weight>) {
      const Weight* entry = panel + k / weights_per_entry<Weight> * pack_panel_columns + first;
      if constexpr (std::is_same_v<Weight, BFloat16Pair>) {
        Vector even[vectors], odd[vectors];
#pragma GCC unroll 2
        for (int64_t v = 0; v < vectors; ++v) {
          const Bits pair = *reinterpret_cast<const Bits*>(entry + v * lanes);
          even[v] = reinterpret_cast<Vector>(pair << 16);
          odd[v] = reinterpret_cast<Vector>(pair & 0xffff0000u);
        }
#pragma GCC unroll 12
        for (int row = 0; row < rows; ++row) {
          const Real* factor = left.data + row * left.stride + k;
#pragma GCC unroll 2
          for (int64_t v = 0; v < vectors; ++v) sum[row][v] += factor[0] * even[v];
#pragma GCC unroll 2
          for (int64_t v = 0; v < vectors; ++v) sum[row][v] += factor[1] * odd[v];
        }
      } else {
        Vector weights[vectors];
#pragma GCC unroll 2
        for (int64_t v = 0; v < vectors; ++v) weights[v] = *reinterpret_cast<const Vector*>(entry + v * lanes);
#pragma GCC unroll 12
        for (int row = 0; row < rows; ++row) {
          const Real factor = left.data[row * left.stride + k];
#pragma GCC unroll 2
          for (int64_t v = 0; v < vectors; ++v) sum[row][v] += factor * weights[v];
        }
      }
    }
#pragma GCC unroll 12
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
      for (int64_t v = 0; v < vectors; ++v)
        *reinterpret_cast<Vector*>(output + row * output_stride + first + v * lanes) = sum[row][v];
    }
  }
}

#define SURVCORE_PANEL_KERNEL(bytes)                                                                               \
  template <int rows, class Weight, class Real>                                                                    \
  SURVCORE_TARGET_##bytes __attribute__((noinline)) void panel_kernel(                                             \
      VectorWidth<bytes>, LeftRows<Real> left, const Weight* panel, int64_t depth, const Real* bias, Real* output, \
      int64_t output_stride) {                                                                                     \
    multiply_panel<bytes, rows, Weight, Real>(left, panel, depth, bias, output, output_stride);                    \
  }
SURVCORE_PANEL_KERNEL(64)
SURVCORE_PANEL_KERNEL(32)
SURVCORE_PANEL_KERNEL(16)
#undef SURVCORE_PANEL_KERNEL

// The kernels of 1, 2, ... rows.
template <int bytes, class Weight, class Real, int... below>
constexpr auto panel_kernels(std::integer_sequence<int, below...>) {
  using Kernel = void (*)(VectorWidth<bytes>, LeftRows<Real>, const Weight*, int64_t, const Real*, Real*, int64_t);
  return std::array<Kernel, sizeof...(below)>{panel_kernel<below + 1, Weight, Real>...};
}

// output[rows, columns] = bias + left[rows, depth] matrix[depth, columns], columns counted in whole panels, each of
// stored_depth rows. For bfloat16 an odd depth reads one more entry of each row, which must be finite.
template <int bytes, class Weight, class Real>
SURVCORE_INLINE void multiply_rows(LeftRows<Real> left, int64_t rows, const Weight* matrix, int64_t depth,
                                   int64_t stored_depth, int64_t columns, const Real* bias, Real* output,
                                   int64_t output_stride) {
  // AVX2 and the base set have half the registers.
  constexpr int64_t most = bytes == 64 ? most_rows_at_once : most_rows_at_once / 2;
  static constexpr auto kernels = panel_kernels<bytes, Weight, Real>(std::make_integer_sequence<int, most>());
  const int64_t blocks = (rows + most - 1) / most;
  for (int64_t column = 0; column < columns; column += pack_panel_columns) {
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = rows * block / blocks, end = rows * (block + 1) / blocks;
      kernels[end - begin - 1](VectorWidth<bytes>(), {left.data + begin * left.stride, left.stride}, matrix, depth,
                               bias ? bias + column : nullptr, output + begin * output_stride + column, output_stride);
    }
    matrix += stored_depth / weights_per_entry<Weight> * pack_panel_columns;
  }
}

}  // namespace survcore
