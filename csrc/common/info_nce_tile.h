// A tile of logits of info_nce: made by one product, turned into sums of exponentials (forward) or into the weights of
// the gradient (backward) while it lies in cache, and forgotten.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/info_nce_problem.h"

namespace survcore {

// Entries row, row + 1, ... against column, column + 1, ...; those of a tile's columns lie on one side.
template <int bytes, class Real>
struct InfoNceTile {
  using Block = ProductBlock<bytes, Real>;
  static constexpr int64_t most_rows = 96;
  static constexpr int64_t rows_together = 4;  // logits have room for this multiple of rows

  int64_t width;     // of an entry
  const Real* left;  // row entries, packed, panels left_panel apart
  int64_t left_panel;
  const Real* right;  // column entries, packed, panels right_panel apart
  int64_t right_panel;
  const Real* turned;   // column entries in panels of entries, divided by the temperature
  Real* logits;         // [rows, stride]
  Real* column_values;  // [filled]
  int64_t row, rows, column, columns;
  int64_t filled;  // columns in whole panels
  int64_t stride;
  Real own_logits[most_rows];
  Real row_values[most_rows];

  static SURVCORE_INLINE int64_t whole(int64_t columns) { return round_up(columns, Block::columns); }

  // Of rows that do not all fall into the same few sets of a cache: products read a tile along its columns too.
  static SURVCORE_INLINE int64_t stride_of(int64_t columns) {
    constexpr int64_t unlucky = 512 / sizeof(Real);
    return whole(columns) % unlucky ? whole(columns) : whole(columns) + Block::columns;
  }

  SURVCORE_INLINE void set_columns(int64_t begin, int64_t end) {
    column = begin;
    columns = end - begin;
    filled = whole(columns);
    stride = stride_of(columns);
  }

  SURVCORE_INLINE void set_rows(int64_t begin, int64_t end) {
    row = begin;
    rows = end - begin;
  }

  SURVCORE_INLINE void make_logits() {
    const LeftPieces<Real> entries{left, Block::columns, 1, Block::columns, left_panel};
    multiply_by_panels<bytes, false>(entries, rows, RightPanels<Real>{turned, width * Block::columns}, filled, width,
                                     logits, stride);
  }

  // Adds the tile's sums to those of its rows, and of its columns unless it is `diagonal`. One exponential under one
  // shift serves both, unless logits lie too far apart for that: returns whether logits are now exponentials under
  // `high`.
  SURVCORE_INLINE bool add_sums(const InfoNceGroup<Real>& group, bool diagonal, Real& high) {
    const Own own = own_of(group, diagonal);
    const bool shared = one_shift(own, high);
    if (!diagonal) {
      for (int64_t i = own.begin; i < own.end; ++i) group.own[row + i] = own_logits[i];
    }
    if (!shared) {
      add_row_sums(group);
      if (!diagonal) add_column_sums(group);
      return false;
    }
    for (int64_t i = 0; i < rows; ++i) {
      Real* s = logits + i * stride;
#pragma omp simd
      for (int64_t j = 0; j < filled; ++j) s[j] = exp_nonpositive(s[j] - high);
    }
    std::fill_n(column_values, filled, Real(0));
    for (int64_t i = rows; i < round_up(rows, rows_together); ++i) std::fill_n(logits + i * stride, filled, Real(0));
    for (int64_t i = 0; i < rows; i += rows_together) sum_rows(i);
#pragma omp simd
    for (int64_t i = 0; i < rows; ++i)
      ShiftedSum<Real>::add(group.shift[row + i], group.sum[row + i], high, row_values[i]);
    if (diagonal) return true;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j)
      ShiftedSum<Real>::add(group.shift[column + j], group.sum[column + j], high, column_values[j]);
    return true;
  }

  // Turns logits into what the entries of the other side are weighted by in the gradient, but for a common factor.
  SURVCORE_INLINE void weigh(const InfoNceGroup<Real>& group, bool diagonal) {
    Real high;
    const bool shared = one_shift(own_of(group, diagonal), high);
    weigh_rest<false>(group, shared, high);
    if (!diagonal) weigh_own(group, own_logits);
  }

  // The same for what add_sums has left.
  SURVCORE_INLINE void weigh_sums(const InfoNceGroup<Real>& group, bool diagonal, bool shared, Real high) {
    weigh_rest<true>(group, shared, high);
    if (!diagonal) weigh_own(group, group.own + row);
  }

  // output[rows, padded width] = weights column entries, or += with `accumulate`.
  template <bool accumulate>
  SURVCORE_INLINE void weigh_columns(Real* output, int64_t output_stride) const {
    constexpr int64_t depth = 256;  // a panel of so many entries fills most of the first cache
    if (!accumulate) add_columns<false>(0, std::min(columns, depth), output, output_stride);
    for (int64_t first = accumulate ? 0 : depth; first < columns; first += depth)
      add_columns<true>(first, std::min(columns - first, depth), output, output_stride);
  }

  // output[count, padded width] = weights^T row entries, or +=, for columns first, first + 1, ... of the tile.
  template <bool accumulate>
  SURVCORE_INLINE void weigh_rows(int64_t first, int64_t count, Real* output, int64_t output_stride) const {
    const LeftPieces<Real> weights{logits + first, 1, stride, rows, 0};
    multiply_by_rows<bytes, accumulate>(weights, count, RightPanels<Real>{left, left_panel}, whole(width), rows, output,
                                        output_stride);
  }

 private:
  typedef Real Vector __attribute__((vector_size(bytes), aligned(alignof(Real)), may_alias));

  // What the tile's sums leave out: in row i, begin <= i < end, the entry that belongs to it or, on the diagonal,
  // itself.
  struct Own {
    int64_t begin;
    int64_t end;
    int64_t shift;

    int64_t column_of(int64_t i) const { return i + shift; }
  };

  SURVCORE_INLINE Own own_of(const InfoNceGroup<Real>& group, bool diagonal) const {
    const int64_t shift = row - column + (diagonal ? 0 : group.count);
    const int64_t end = std::min(diagonal ? rows : std::min(rows, group.count - row), columns - shift);
    return {std::max<int64_t>(0, -shift), end, shift};
  }

  // Takes what sums leave out away: their logits go to own_logits, -inf takes their place and fills the last panel.
  // Says whether one shift, `high`, serves all rows and columns; NaN is passed over.
  SURVCORE_INLINE bool one_shift(const Own& own, Real& high) {
    constexpr Real nothing = -std::numeric_limits<Real>::infinity();
    for (int64_t i = own.begin; i < own.end; ++i) {
      Real* s = logits + i * stride;
      const int64_t j = own.column_of(i);
      own_logits[i] = s[j];
      s[j] = s[j > 0 ? 0 : std::min<int64_t>(1, columns - 1)];  // another one, for the range
    }
    fill_last_panel(logits[0]);
    Vector least[2], most[2];
    for (int v = 0; v < 2; ++v) least[v] = most[v] = Vector{} + logits[0];
    for (int64_t i = 0; i < rows; ++i) {
      const Vector* s = reinterpret_cast<const Vector*>(logits + i * stride);
      for (int64_t j = 0; j < filled / Block::lanes; j += 2) {
        for (int v = 0; v < 2; ++v) {
          least[v] = s[j + v] < least[v] ? s[j + v] : least[v];
          most[v] = s[j + v] > most[v] ? s[j + v] : most[v];
        }
      }
    }
    Real low = least[0][0];
    high = most[0][0];
    for (int v = 0; v < 2; ++v) {
      for (int64_t lane = 0; lane < Block::lanes; ++lane) {
        low = least[v][lane] < low ? least[v][lane] : low;
        high = most[v][lane] > high ? most[v][lane] : high;
      }
    }
    for (int64_t i = own.begin; i < own.end; ++i) logits[i * stride + own.column_of(i)] = nothing;
    fill_last_panel(nothing);
    // A shift without a term near it would hide what other tiles add: every row and column has one.
    return rows > 1 && columns > 1 && high - low <= ShiftedSum<Real>::exp_range;
  }

  SURVCORE_INLINE void fill_last_panel(Real value) {
    if (columns == filled) return;
    for (int64_t i = 0; i < rows; ++i) std::fill(logits + i * stride + columns, logits + i * stride + filled, value);
  }

  // weigh, for all but the pairs' own logits; `exponentials`: they are made.
  template <bool exponentials>
  SURVCORE_INLINE void weigh_rest(const InfoNceGroup<Real>& group, bool shared, Real high) {
    if (!shared) {
      for (int64_t i = 0; i < rows; ++i) {
        Real* s = logits + i * stride;
        const LogSum<Real> row_sum(group.log_sum[row + i]);
#pragma omp simd
        for (int64_t j = 0; j < columns; ++j)
          s[j] = row_sum.share(s[j]) + LogSum<Real>(group.log_sum[column + j]).share(s[j]);
      }
      return;
    }
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j)
      column_values[j] = exp_of_either_sign(static_cast<Real>(high - group.log_sum[column + j]));
    std::fill(column_values + columns, column_values + filled, Real(0));
    for (int64_t i = 0; i < rows; ++i) {
      Real* s = logits + i * stride;
      const Real row_value = exp_of_either_sign(static_cast<Real>(high - group.log_sum[row + i]));
#pragma omp simd
      for (int64_t j = 0; j < filled; ++j)
        s[j] = (exponentials ? s[j] : exp_nonpositive(s[j] - high)) * (row_value + column_values[j]);
    }
  }

  // Both shares of a pair's own logit minus 1, accurate where they are almost 1.
  SURVCORE_INLINE void weigh_own(const InfoNceGroup<Real>& group, const Real* own_values) {
    const Own own = own_of(group, false);
    for (int64_t i = own.begin; i < own.end; ++i) {
      const int64_t j = own.column_of(i);
      logits[i * stride + j] = static_cast<Real>(std::expm1(own_values[i] - group.log_sum[row + i]) +
                                                 std::expm1(own_values[i] - group.log_sum[column + j]));
    }
  }

  template <bool accumulate>
  SURVCORE_INLINE void add_columns(int64_t first, int64_t depth, Real* output, int64_t output_stride) const {
    const LeftPieces<Real> weights{logits + first, stride, 1, depth, 0};
    const RightPanels<Real> entries{right + first * Block::columns, right_panel};
    multiply_by_panels<bytes, accumulate>(weights, rows, entries, whole(width), depth, output, output_stride);
  }

  // Sums of rows i, i + 1, ... to row_values; adds the rows to column_values.
  SURVCORE_INLINE void sum_rows(int64_t i) {
    Vector sums[rows_together] = {};
    for (int64_t j = 0; j < filled; j += Block::lanes) {
      Vector& below = *reinterpret_cast<Vector*>(column_values + j);
      Vector total = below;
      for (int k = 0; k < rows_together; ++k) {
        const Vector values = *reinterpret_cast<const Vector*>(logits + (i + k) * stride + j);
        sums[k] += values;
        total += values;
      }
      below = total;
    }
    for (int k = 0; k < rows_together; ++k)
      row_values[i + k] = sum_of_lanes<bytes, Real>(reinterpret_cast<const Real*>(&sums[k]));
  }

  SURVCORE_INLINE void add_row_sums(const InfoNceGroup<Real>& group) {
    for (int64_t i = 0; i < rows; ++i) {
      const Real* s = logits + i * stride;
      Real most = -std::numeric_limits<Real>::infinity();
#pragma omp simd reduction(max : most)
      for (int64_t j = 0; j < columns; ++j) most = s[j] > most ? s[j] : most;
      Real sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < columns; ++j) sum += exp_below(s[j], most);
      ShiftedSum<Real>::add(group.shift[row + i], group.sum[row + i], most, sum);
    }
  }

  SURVCORE_INLINE void add_column_sums(const InfoNceGroup<Real>& group) {
    constexpr int64_t lanes = 16;
    for (int64_t start = 0; start < columns; start += lanes) {
      const int64_t count = std::min(lanes, columns - start);
      Real most[lanes], sum[lanes] = {};
      std::fill_n(most, lanes, -std::numeric_limits<Real>::infinity());
      for (int64_t i = 0; i < rows; ++i) {
        const Real* s = logits + i * stride + start;
#pragma omp simd
        for (int64_t j = 0; j < count; ++j) most[j] = s[j] > most[j] ? s[j] : most[j];
      }
      for (int64_t i = 0; i < rows; ++i) {
        const Real* s = logits + i * stride + start;
#pragma omp simd
        for (int64_t j = 0; j < count; ++j) sum[j] += exp_below(s[j], most[j]);
      }
      for (int64_t j = 0; j < count; ++j)
        ShiftedSum<Real>::add(group.shift[column + start + j], group.sum[column + start + j], most[j], sum[j]);
    }
  }
};

}  // namespace survcore
