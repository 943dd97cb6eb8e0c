// What the kernels of info_nce work on: one problem per group, its valid rows in chunks, and the entries of a chunk
// packed for products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "common/packed_product.h"
#include "common/pair_rounds.h"
#include "common/round_up.h"
#include "common/row_tile.h"
#include "common/vector_sums.h"
#include "core/info_nce.h"

namespace survcore {

// A part of all the pairs of tiles: those whose number leaves `rank` when divided by `ranks`.
struct InfoNceShare {
  int64_t rank;
  int64_t ranks;
};

struct InfoNceOptions {
  bool among;  // entries of one side are compared too: "nt_xent"
  bool normalize;
  double temperature;
  InfoNceShare share;
};

// One group. Entries 0..count-1 are its valid queries, count..2 count-1 their keys (core/info_nce.h).
template <class Real>
struct InfoNceGroup {
  const Real* sides[2];  // query and key [rows, width]
  const int64_t* valid;  // [count], or null: all rows
  int64_t count;
  int64_t width;

  // For forward: sums of exponentials over the other entries, [2 count], and the logit of each pair, [count].
  Real* shift;
  double* sum;
  Real* own;

  // For backward: logarithms of the sums, each pair's logit among them, [2 count], and sums of weighted entries,
  // [count, weighted_stride] per side.
  const double* log_sum;
  Real* weighted[2];
  int64_t weighted_stride;

  int64_t row_of(int64_t entry) const {
    const int64_t index = entry < count ? entry : entry - count;
    return valid ? valid[index] : index;
  }
  const Real* at(int64_t entry) const { return sides[entry >= count] + row_of(entry) * width; }
  Real* weighted_at(int64_t entry) const {
    return weighted[entry >= count] + (entry < count ? entry : entry - count) * weighted_stride;
  }
};

// Chunks of a group's entries: as many of the queries as of the keys, none with both.
struct InfoNceChunks {
  int64_t count;     // of entries of a side
  int64_t per_side;  // number of chunks
  int64_t chunk_rows;

  // Chunks of at most `most_rows` entries, as equal as multiples of `multiple` can be.
  InfoNceChunks(int64_t entries, int64_t most_rows, int64_t multiple) : count(entries) {
    per_side = std::max<int64_t>(1, (entries + most_rows - 1) / most_rows);
    chunk_rows = round_up((entries + per_side - 1) / per_side, multiple);
    if (entries > 0) per_side = (entries + chunk_rows - 1) / chunk_rows;
  }

  // Those of the rounds of a share: among many ranks smaller chunks, so that each has some.
  InfoNceChunks(int64_t entries, InfoNceShare share)
      : InfoNceChunks(entries, std::clamp<int64_t>(entries / share.ranks, 48, 512), 16) {}

  int64_t begin(int64_t chunk) const {
    const int64_t side = chunk / per_side;
    return side * count + chunk % per_side * chunk_rows;
  }
  int64_t end(int64_t chunk) const {
    const int64_t side = chunk / per_side;
    return side * count + std::min(count, (chunk % per_side + 1) * chunk_rows);
  }
  Rounds rounds(bool among) const { return among ? rounds_among(2 * per_side) : rounds_between(per_side); }
};

template <int bytes, class Real>
SURVCORE_INLINE Real squared_length(const Real* row, int64_t width) {
  return vector_sum<bytes, Real>(width, [&](int64_t i, auto& sum) SURVCORE_INLINE_LAMBDA {
    std::remove_reference_t<decltype(sum)> values;
    load_entries(row, i, values);
    sum += values * values;
  });
}

// Entries [begin, end) in panels of ProductBlock::columns of their columns, filled up with zeros to whole panels:
// column c of entry e lies at packed[c / columns * panel_stride + (e - begin) * columns + c % columns].
template <int bytes, class Real>
SURVCORE_INLINE void pack_entries(const InfoNceGroup<Real>& group, bool normalize, int64_t begin, int64_t end,
                                  Real* packed, int64_t panel_stride) {
  constexpr int64_t columns = ProductBlock<bytes, Real>::columns;
  for (int64_t entry = begin; entry < end; ++entry) {
    const Real* row = group.at(entry);
    const Real factor = normalize ? inverse_length(squared_length<bytes>(row, group.width)) : Real(1);
    Real* place = packed + (entry - begin) * columns;
    for (int64_t first = 0; first < group.width; first += columns, place += panel_stride) {
      const int64_t filled = std::min(columns, group.width - first);
      if (filled == columns) {
#pragma omp simd
        for (int64_t i = 0; i < columns; ++i) place[i] = factor * row[first + i];
      } else {
        for (int64_t i = 0; i < columns; ++i) place[i] = i < filled ? factor * row[first + i] : Real(0);
      }
    }
  }
}

// `count` packed entries, times `factor`, in panels of entries instead, as the right-hand side of a product over their
// `width` columns: column c of entry j lies at turned[j / columns * width * columns + c * columns + j % columns].
// Filled up with zeros to whole panels.
template <int bytes, class Real>
SURVCORE_INLINE void turn_entries(const Real* packed, int64_t panel_stride, int64_t count, int64_t width, Real factor,
                                  Real* turned) {
  constexpr int64_t columns = ProductBlock<bytes, Real>::columns;
  constexpr int64_t lanes = RowTile<Real>::lanes;
  constexpr int64_t piece = std::min(lanes, columns);
  RowTile<Real> tile;
  for (int64_t first = 0; first < round_up(count, columns); first += lanes) {
    const int rows = static_cast<int>(std::clamp<int64_t>(count - first, 0, lanes));
    for (int64_t start = 0; start < width; start += columns) {
      const int filled = static_cast<int>(std::min(columns, width - start));
      tile.load(packed + start / columns * panel_stride + first * columns, columns, rows, filled);
      for (int64_t part = 0; part < lanes && first + part < round_up(count, columns); part += piece) {
        const int64_t entry = first + part;
        Real* place = turned + entry / columns * columns * width + start * columns + entry % columns;
        for (int64_t column = 0; column < filled; ++column, place += columns) {
#pragma omp simd
          for (int64_t lane = 0; lane < piece; ++lane) place[lane] = factor * tile.values[column][part + lane];
        }
      }
    }
  }
}

// Gradients of entries [begin, end) from the sums of weighted entries, times `factor`; written to their rows of
// `gradients`. Returns the sum of z.dz over the unit vectors z, which the temperature's gradient is made of.
template <int bytes, class Real>
SURVCORE_INLINE double finish_entries(const InfoNceGroup<Real>& group, bool normalize, int64_t begin, int64_t end,
                                      Real factor, Real* const gradients[2]) {
  double total = 0;
  for (int64_t entry = begin; entry < end; ++entry) {
    const Real* row = group.at(entry);
    const Real* weighted = group.weighted_at(entry);
    Real* gradient = gradients[entry >= group.count] + group.row_of(entry) * group.width;
    const Real inverse = normalize ? inverse_length(squared_length<bytes>(row, group.width)) : Real(1);
    const Real along =
        factor * inverse * vector_sum<bytes, Real>(group.width, [&](int64_t i, auto& sum) SURVCORE_INLINE_LAMBDA {
          std::remove_reference_t<decltype(sum)> left, right;
          load_entries(row, i, left);
          load_entries(weighted, i, right);
          sum += left * right;
        });
    total += along;
    const Real by_row = normalize && length_varies(inverse) ? -inverse * inverse * along : Real(0);
    const Real by_sum = inverse * factor;
#pragma omp simd
    for (int64_t i = 0; i < group.width; ++i) gradient[i] = by_sum * weighted[i] + by_row * row[i];
  }
  return total;
}

}  // namespace survcore
