// Products of small matrices held in cache: a block of a few rows by 64 bytes of columns, eight vectors of any width,
// stays in registers over the whole depth. Written for kernels that multiply a tile of rows, use the result and forget
// it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/dispatch.h"
#include "common/round_up.h"

namespace survcore {

constexpr int64_t most_block_rows = 8;
constexpr int64_t panel_bytes = 64;

template <class Real>
constexpr int64_t panel_columns = panel_bytes / sizeof(Real);

// The right-hand matrix of a product, [depth, columns], in panels of `width` = panel_columns columns, each of which can
// be contiguous: element (k, j) lies at data[j / width * panel + k * stride + j % width].
template <class Real>
struct Columns {
  const Real* data;
  int64_t panel;
  int64_t stride;
};

// A right-hand matrix copied into contiguous panels, its columns filled up with zeros to whole panels.
template <class Real>
class Panels {
 public:
  Panels(const Real* source, int64_t row_stride, int64_t column_stride, int64_t depth, int64_t columns)
      : depth_(depth), values_(round_up(columns, width) * depth, Real(0)) {
    Real* entry = values_.data();
    for (int64_t first = 0; first < columns; first += width) {
      const int64_t filled = std::min(width, columns - first);
      for (int64_t k = 0; k < depth; ++k, entry += width) {
        const Real* row = source + k * row_stride + first * column_stride;
        for (int64_t j = 0; j < filled; ++j) entry[j] = row[j * column_stride];
      }
    }
  }

  Columns<Real> columns() const { return {values_.data(), width * depth_, width}; }

 private:
  static constexpr int64_t width = panel_columns<Real>;
  int64_t depth_;
  std::vector<Real> values_;
};

// output[rows, columns] = left[rows, depth] right[depth, columns], or += with `accumulate`, in vectors of `bytes`.
// Element (i, k) of left lies at left[i * row_stride + k * depth_stride]. rows is a multiple of 8, columns one of
// panel_columns.
template <int bytes, bool accumulate, class Real>
SURVCORE_INLINE void multiply(const Real* left, int64_t row_stride, int64_t depth_stride, Columns<Real> right,
                              int64_t rows, int64_t columns, int64_t depth, Real* output, int64_t output_stride) {
  typedef Real Vector __attribute__((vector_size(bytes), aligned(alignof(Real)), may_alias));
  constexpr int64_t lanes = bytes / sizeof(Real);
  constexpr int64_t vectors = panel_bytes / bytes;
  constexpr int64_t block_rows = most_block_rows / vectors;
  for (int64_t column = 0; column < columns; column += panel_columns<Real>) {
    const Real* panel = right.data + column / panel_columns<Real> * right.panel;
    for (int64_t row = 0; row < rows; row += block_rows) {
      const Real* block = left + row * row_stride;
      Real* corner = output + row * output_stride + column;
      const auto result = [&](int64_t i, int64_t v) SURVCORE_INLINE_LAMBDA {
        return reinterpret_cast<Vector*>(corner + i * output_stride + v * lanes);
      };
      Vector sum[block_rows][vectors] = {};
      if (accumulate) {
        for (int64_t i = 0; i < block_rows; ++i) {
          for (int64_t v = 0; v < vectors; ++v) sum[i][v] = *result(i, v);
        }
      }
      for (int64_t k = 0; k < depth; ++k) {
        Vector entries[vectors];
        for (int64_t v = 0; v < vectors; ++v)
          entries[v] = *reinterpret_cast<const Vector*>(panel + k * right.stride + v * lanes);
        for (int64_t i = 0; i < block_rows; ++i) {
          const Real factor = block[i * row_stride + k * depth_stride];
          for (int64_t v = 0; v < vectors; ++v) sum[i][v] += factor * entries[v];
        }
      }
      for (int64_t i = 0; i < block_rows; ++i) {
        for (int64_t v = 0; v < vectors; ++v) *result(i, v) = sum[i][v];
      }
    }
  }
}

}  // namespace survcore
