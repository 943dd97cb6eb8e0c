// A tile of logits of info_nce: made by one product, turned into sums of exponentials (forward) or into the weights of
// the gradient (backward) while it lies in cache, and forgotten.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/info_nce_problem.h"
#include "common/scratch.h"

namespace survcore {

// Room for one pair of chunks: entries of the row chunk, and of as many columns as fit the second cache, packed; a
// tile.
template <int bytes, class Real>
struct InfoNceTile {
  using Block = ProductBlock<bytes, Real>;
  static constexpr int64_t most_rows = 96;

  int64_t width;   // of an entry
  int64_t padded;  // width in whole panels
  int64_t most_columns;
  Scratch<Real> room;
  Real* left;           // row entries
  Real* right;          // column entries
  Real* turned;         // column entries in panels of entries, divided by the temperature
  Real* logits;         // [rows, stride]
  Real* column_values;  // [most_columns]
  Real own_logits[most_rows];
  Real row_values[most_rows];

  // The tile at hand: entries row, row + 1, ... against column, column + 1, ...
  int64_t row = 0, rows = 0, column = 0, columns = 0, stride = 0;

  InfoNceTile(int64_t width_, int64_t chunk_rows, int64_t chunk_columns)
      : width(width_),
        padded(in_whole(width_, Block::columns)),
        most_columns(columns_of(padded, chunk_columns)),
        room((chunk_rows + 2 * most_columns) * padded + (most_rows + 1) * most_columns),
        left(room.data()),
        right(left + chunk_rows * padded),
        turned(right + most_columns * padded),
        logits(turned + most_columns * padded),
        column_values(logits + most_rows * most_columns) {}

  static int64_t columns_of(int64_t padded, int64_t chunk_columns) {
    constexpr int64_t usual_entries = 128 << 10, least = 64, most = 512;  // bytes of a tile's column entries
    const int64_t fitting = std::clamp<int64_t>(usual_entries / (padded * sizeof(Real)), least, most);
    return in_whole(std::min(fitting, chunk_columns), std::max<int64_t>(Block::columns, 16));
  }

  SURVCORE_INLINE void pack_columns(const InfoNceGroup<Real>& group, const InfoNceOptions& options, int64_t begin,
                                    int64_t end) {
    column = begin;
    columns = end - begin;
    stride = in_whole(columns, Block::columns);
    pack_entries<bytes>(group, options.normalize, begin, end, right);
    turn_entries<bytes>(right, columns, width, static_cast<Real>(1 / options.temperature), turned);
  }

  // Logits of rows [begin, end), which are packed from entry `first` on, `packed_rows` in all.
  SURVCORE_INLINE void multiply_rows(int64_t begin, int64_t end, int64_t first, int64_t packed_rows) {
    row = begin;
    rows = end - begin;
    const LeftPieces<Real> entries{left + (begin - first) * Block::columns, Block::columns, 1, Block::columns,
                                   packed_rows * Block::columns};
    multiply_by_panels<bytes, false>(entries, rows, RightPanels<Real>{turned, width * Block::columns}, stride, width,
                                     logits, stride);
  }

  // Adds the tile's sums to those of its rows, and of its columns unless it is `diagonal`. One exponential under one
  // shift serves both, unless logits lie too far apart for that.
  SURVCORE_INLINE void add_sums(const InfoNceGroup<Real>& group, bool diagonal) {
    const Own own = own_of(group, diagonal);
    Real high;
    const bool shared = one_shift(own, high);
    if (!diagonal) {
      for (int64_t i = own.begin; i < own.end; ++i) group.own[row + i] = own_logits[i];
    }
    if (!shared) {
      add_row_sums(group);
      if (!diagonal) add_column_sums(group);
      return;
    }
#pragma omp simd
    for (int64_t i = 0; i < rows * stride; ++i) logits[i] = exp_nonpositive(logits[i] - high);
    std::fill_n(column_values, stride, Real(0));
    constexpr int64_t together = 4;
    for (int64_t i = rows; i < in_whole(rows, together); ++i) std::fill_n(logits + i * stride, stride, Real(0));
    for (int64_t i = 0; i < rows; i += together) sum_rows<together>(i);
#pragma omp simd
    for (int64_t i = 0; i < rows; ++i)
      ShiftedSum<Real>::add(group.shift[row + i], group.sum[row + i], high, row_values[i]);
    if (diagonal) return;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j)
      ShiftedSum<Real>::add(group.shift[column + j], group.sum[column + j], high, column_values[j]);
  }

  // Turns logits into what the entries of the other side are weighted by in the gradient, but for a common factor.
  SURVCORE_INLINE void weigh(const InfoNceGroup<Real>& group, bool diagonal) {
    const Own own = own_of(group, diagonal);
    Real high;
    if (one_shift(own, high)) {
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j)
        column_values[j] = exp_of_either_sign(static_cast<Real>(high - group.log_sum[column + j]));
      std::fill(column_values + columns, column_values + stride, Real(0));
      for (int64_t i = 0; i < rows; ++i) {
        Real* s = logits + i * stride;
        const Real row_value = exp_of_either_sign(static_cast<Real>(high - group.log_sum[row + i]));
#pragma omp simd
        for (int64_t j = 0; j < stride; ++j) s[j] = exp_nonpositive(s[j] - high) * (row_value + column_values[j]);
      }
    } else {
      for (int64_t i = 0; i < rows; ++i) {
        Real* s = logits + i * stride;
        const LogSum<Real> row_sum(group.log_sum[row + i]);
#pragma omp simd
        for (int64_t j = 0; j < columns; ++j)
          s[j] = row_sum.share(s[j]) + LogSum<Real>(group.log_sum[column + j]).share(s[j]);
      }
    }
    if (diagonal) return;
    for (int64_t i = own.begin; i < own.end; ++i) {
      // Both shares minus 1, accurate where they are almost 1.
      const int64_t j = own.column_of(i);
      logits[i * stride + j] = static_cast<Real>(std::expm1(own_logits[i] - group.log_sum[row + i]) +
                                                 std::expm1(own_logits[i] - group.log_sum[column + j]));
    }
  }

  // Adds the weighted entries to the sums of the tile's rows, and of its columns unless it is `diagonal`.
  SURVCORE_INLINE void add_weighted(const InfoNceGroup<Real>& group, bool diagonal, int64_t first,
                                    int64_t packed_rows) {
    const LeftPieces<Real> weights{logits, stride, 1, columns, 0};
    multiply_by_panels<bytes, true>(weights, rows, RightPanels<Real>{right, columns * Block::columns}, padded, columns,
                                    group.weighted_at(row), group.weighted_stride);
    if (diagonal) return;
    const LeftPieces<Real> turned_weights{logits, 1, stride, rows, 0};
    const RightPanels<Real> entries{left + (row - first) * Block::columns, packed_rows * Block::columns};
    multiply_by_rows<bytes, true>(turned_weights, columns, entries, padded, rows, group.weighted_at(column),
                                  group.weighted_stride);
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
    if (columns < stride) {
      for (int64_t i = 0; i < rows; ++i) std::fill(logits + i * stride + columns, logits + (i + 1) * stride, logits[0]);
    }
    Vector least[2], most[2];
    for (int v = 0; v < 2; ++v) least[v] = most[v] = Vector{} + logits[0];
    const Vector* s = reinterpret_cast<const Vector*>(logits);
    for (int64_t i = 0; i < rows * stride / Block::lanes; i += 2) {
      for (int v = 0; v < 2; ++v) {
        least[v] = s[i + v] < least[v] ? s[i + v] : least[v];
        most[v] = s[i + v] > most[v] ? s[i + v] : most[v];
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
    if (columns < stride) {
      for (int64_t i = 0; i < rows; ++i) std::fill(logits + i * stride + columns, logits + (i + 1) * stride, nothing);
    }
    // A shift without a term near it would hide what other tiles add: every row and column has one.
    return rows > 1 && columns > 1 && high - low <= ShiftedSum<Real>::exp_range;
  }

  // Sums of rows i, i + 1, ... to row_values; adds the rows to column_values.
  template <int count>
  SURVCORE_INLINE void sum_rows(int64_t i) {
    Vector sums[count] = {};
    for (int64_t j = 0; j < stride; j += Block::lanes) {
      Vector& below = *reinterpret_cast<Vector*>(column_values + j);
      Vector total = below;
      for (int k = 0; k < count; ++k) {
        const Vector values = *reinterpret_cast<const Vector*>(logits + (i + k) * stride + j);
        sums[k] += values;
        total += values;
      }
      below = total;
    }
    for (int k = 0; k < count; ++k)
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
