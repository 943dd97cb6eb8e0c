// Products of matrices packed into panels, for kernels whose time goes into them: a block of up to 12 rows by two
// vectors of columns (6 rows where there are 16 registers) stays in registers over the whole depth, which keeps both
// multipliers of a core busy as long as the panel comes from the first or second cache.
#pragma once

#include <cstdint>

#include "common/dispatch.h"

namespace survcore {

// What the registers hold, in vectors of `bytes`.
template <int bytes, class Real>
struct ProductBlock {
  static constexpr int64_t lanes = bytes / sizeof(Real);
  static constexpr int64_t vectors = 2;
  static constexpr int64_t columns = vectors * lanes;  // of a panel
  static constexpr int64_t rows = bytes == 64 ? 12 : 6;
};

// The left-hand matrix of a product in pieces of its depth: element (i, k) lies at
// data[i * row_stride + k / piece * piece_stride + k % piece * depth_stride].
template <class Real>
struct LeftPieces {
  const Real* data;
  int64_t row_stride;
  int64_t depth_stride;
  int64_t piece;
  int64_t piece_stride;
};

// The right-hand matrix in panels of ProductBlock::columns columns: element (k, j) lies at
// data[j / columns * panel_stride + k * columns + j % columns].
template <class Real>
struct RightPanels {
  const Real* data;
  int64_t panel_stride;
};

// output[rows, columns of a panel] = left[rows, depth] panel[depth, columns], or += with `accumulate`.
template <int bytes, int rows, bool accumulate, class Real>
SURVCORE_INLINE void multiply_block(const LeftPieces<Real>& left, const Real* panel, int64_t depth, Real* output,
                                    int64_t output_stride) {
  using Block = ProductBlock<bytes, Real>;
  typedef Real Vector __attribute__((vector_size(bytes), aligned(alignof(Real)), may_alias));
  Vector sum[rows][Block::vectors];
#pragma GCC unroll 12
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < Block::vectors; ++v) {
      sum[i][v] =
          accumulate ? *reinterpret_cast<const Vector*>(output + i * output_stride + v * Block::lanes) : Vector{};
    }
  }
  const Real* start = left.data;
  for (int64_t first = 0; first < depth; first += left.piece, start += left.piece_stride) {
    const int64_t steps = depth - first < left.piece ? depth - first : left.piece;
    const Real* factor = start;
    for (int64_t k = 0; k < steps; ++k, factor += left.depth_stride, panel += Block::columns) {
      Vector entries[Block::vectors];
#pragma GCC unroll 2
      for (int v = 0; v < Block::vectors; ++v) entries[v] = *reinterpret_cast<const Vector*>(panel + v * Block::lanes);
#pragma GCC unroll 12
      for (int i = 0; i < rows; ++i) {
        const Real one = factor[i * left.row_stride];
#pragma GCC unroll 2
        for (int v = 0; v < Block::vectors; ++v) sum[i][v] += one * entries[v];
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < Block::vectors; ++v)
      *reinterpret_cast<Vector*>(output + i * output_stride + v * Block::lanes) = sum[i][v];
  }
}

// One definition for each width of vectors: kept apart from their callers, which would run out of registers.
#define SURVCORE_PRODUCT_BLOCK(bytes)                                                                   \
  template <int rows, bool accumulate, class Real>                                                      \
  SURVCORE_TARGET_##bytes __attribute__((noinline)) void product_block(                                 \
      VectorWidth<bytes>, const LeftPieces<Real>& left, const Real* panel, int64_t depth, Real* output, \
      int64_t output_stride) {                                                                          \
    multiply_block<bytes, rows, accumulate>(left, panel, depth, output, output_stride);                 \
  }
SURVCORE_PRODUCT_BLOCK(64)
SURVCORE_PRODUCT_BLOCK(32)
SURVCORE_PRODUCT_BLOCK(16)
#undef SURVCORE_PRODUCT_BLOCK

// The same for any number of rows; what is left over full blocks is done in small ones.
template <int bytes, bool accumulate, class Real>
SURVCORE_INLINE void multiply_panel_rows(LeftPieces<Real> left, int64_t rows, const Real* panel, int64_t depth,
                                         Real* output, int64_t output_stride) {
  constexpr int full = ProductBlock<bytes, Real>::rows;
  constexpr int part = full / 3;
  constexpr VectorWidth<bytes> width;
  const auto advance = [&](int64_t count) SURVCORE_INLINE_LAMBDA {
    left.data += count * left.row_stride;
    output += count * output_stride;
    rows -= count;
  };
  for (; rows >= full; advance(full)) product_block<full, accumulate>(width, left, panel, depth, output, output_stride);
  for (; rows >= part; advance(part)) product_block<part, accumulate>(width, left, panel, depth, output, output_stride);
  for (; rows > 0; advance(1)) product_block<1, accumulate>(width, left, panel, depth, output, output_stride);
}

// output[rows, columns] = left[rows, depth] right[depth, columns], or += with `accumulate`; columns in whole panels.
// Each panel is used for all rows before the next one: right for panels that fill the first cache.
template <int bytes, bool accumulate, class Real>
SURVCORE_INLINE void multiply_by_panels(const LeftPieces<Real>& left, int64_t rows, RightPanels<Real> right,
                                        int64_t columns, int64_t depth, Real* output, int64_t output_stride) {
  constexpr int64_t width = ProductBlock<bytes, Real>::columns;
  for (int64_t column = 0; column < columns; column += width) {
    multiply_panel_rows<bytes, accumulate>(left, rows, right.data + column / width * right.panel_stride, depth,
                                           output + column, output_stride);
  }
}

// The same, with each block of rows multiplied by all panels before the next one: right for a small depth, where the
// panels fit the first cache together.
template <int bytes, bool accumulate, class Real>
SURVCORE_INLINE void multiply_by_rows(const LeftPieces<Real>& left, int64_t rows, RightPanels<Real> right,
                                      int64_t columns, int64_t depth, Real* output, int64_t output_stride) {
  constexpr int64_t step = ProductBlock<bytes, Real>::rows;
  for (int64_t row = 0; row < rows; row += step) {
    LeftPieces<Real> block = left;
    block.data += row * left.row_stride;
    multiply_by_panels<bytes, accumulate>(block, rows - row < step ? rows - row : step, right, columns, depth,
                                          output + row * output_stride, output_stride);
  }
}

}  // namespace survcore
