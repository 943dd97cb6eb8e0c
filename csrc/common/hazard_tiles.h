// discrete_hazard_nll of any form: sixteen rows at a time, one row per vector lane (common/row_tile.h), so that each
// lane sums its row. Two instructions per bin go into turning the tile there and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "common/dispatch.h"
#include "common/hazard_problem.h"
#include "common/row_tile.h"
#include "core/hazard.h"

namespace survcore {

// What the rows of a chunk read, filled up to whole tiles with rows that read nothing. Kept as one array per quantity
// and computed in short loops of one kind of number each, which compilers vectorise.
template <class Real>
struct HazardChunkRows {
  static constexpr int lanes = RowTile<Real>::lanes;

  alignas(64) int32_t begin[hazard_chunk_rows];
  alignas(64) int32_t end[hazard_chunk_rows];
  alignas(64) int32_t flipped[hazard_chunk_rows];
  // What the row's sum is multiplied by: NaN for an invalid row (it reads all bins), 0 for one that is left out.
  alignas(64) Real factor[hazard_chunk_rows];

  SURVCORE_INLINE HazardChunkRows(const HazardProblem<Real>& problem, int64_t first, int rows) {
    const int64_t* time_bin = problem.time_bin + first;
    const HazardForm form = problem.form;
    const int32_t bins = problem.bins;
    const Real alpha = problem.alpha;
    alignas(64) int32_t event[hazard_chunk_rows];
    alignas(64) int32_t valid[hazard_chunk_rows];
    alignas(64) Real weight[hazard_chunk_rows];
    problem.event.read(first, rows, event);
    for (int row = 0; row < rows; ++row) weight[row] = problem.weights ? problem.weights[first + row] : Real(1);
#pragma omp simd
    for (int row = 0; row < rows; ++row) {
      valid[row] = hazard_row_valid(time_bin[row], event[row], bins) ? 1 : 0;
      const HazardRow bounds = hazard_row(time_bin[row], event[row], form);
      begin[row] = valid[row] ? bounds.begin : 0;
      end[row] = valid[row] ? bounds.end : bins;
      flipped[row] = bounds.flipped;
    }
#pragma omp simd
    for (int row = 0; row < rows; ++row) {
      const Real product = weight[row] * (Real(1) - alpha * Real(flipped[row] < 0));
      factor[row] = valid[row] ? product : std::numeric_limits<Real>::quiet_NaN();
    }
#pragma omp simd
    for (int row = 0; row < rows; ++row) factor[row] = weight[row] == Real(0) ? Real(0) : factor[row];
#pragma omp simd
    for (int row = 0; row < rows; ++row) end[row] = factor[row] == Real(0) ? 0 : end[row];
    for (int row = rows; row % lanes != 0; ++row) {
      begin[row] = end[row] = flipped[row] = 0;
      factor[row] = 0;
    }
  }

  // The last bin (exclusive) that a row of the tile reads.
  SURVCORE_INLINE int32_t tile_end(int tile) const {
    int32_t result = 0;
#pragma omp simd reduction(max : result)
    for (int lane = 0; lane < lanes; ++lane) result = std::max(result, end[tile + lane]);
    return result;
  }
};

// Losses of rows [first, last), times their weights: written to `losses` if that is not null, and their sum returned.
template <bool with_gradient, class Real>
SURVCORE_INLINE double hazard_tiles(const HazardProblem<Real>& problem, int64_t first, int64_t last, Real* losses,
                                    HazardGradient<Real> gradient) {
  constexpr int lanes = RowTile<Real>::lanes;
  static_assert(RowTile<Real>::capacity <= SoftplusSum<Real>::capacity, "a tile's columns fit one product");
  const int rows = static_cast<int>(last - first);
  const HazardChunkRows<Real> chunk(problem, first, rows);
  alignas(64) Real slope_factor[hazard_chunk_rows];
  if (with_gradient) {
    for (int row = 0; row < rows; ++row)
      slope_factor[row] = chunk.factor[row] * (gradient.rows ? gradient.rows[first + row] : gradient.factor);
    for (int row = rows; row % lanes != 0; ++row) slope_factor[row] = 0;
  }
  RowTile<Real> logits;
  // The parts of each row's SoftplusSum.
  alignas(64) Real linear[hazard_chunk_rows] = {};
  alignas(64) Real product[hazard_chunk_rows] = {};
  for (int tile = 0; tile < rows; tile += lanes) {
    const int tile_rows = std::min(lanes, rows - tile);
    const int32_t* begin = chunk.begin + tile;
    const int32_t* end = chunk.end + tile;
    const int32_t* flipped = chunk.flipped + tile;
    const Real* factor = slope_factor + tile;
    const int32_t tile_end = with_gradient ? problem.bins : chunk.tile_end(tile);
    for (int32_t start = 0; start < tile_end; start += RowTile<Real>::capacity) {
      const int columns = std::min<int32_t>(tile_end - start, RowTile<Real>::capacity);
      const int64_t offset = (first + tile) * problem.bins + start;
      const Real* source = problem.logits + offset;
      logits.load(source, problem.bins, tile_rows, columns);
      RowTile<Real>::prefetch(source + lanes * problem.bins, problem.bins, columns);
      Real tile_linear[lanes] = {};
      Real tile_product[lanes] = {};
      for (int column = 0; column < columns; ++column) {
        const int32_t bin = start + column;
        Real* values = logits.values[column];
#pragma omp simd
        for (int lane = 0; lane < lanes; ++lane) {
          const bool active = (bin >= begin[lane]) & (bin < end[lane]);
          const Real slope = add_bin(values[lane], bin == flipped[lane], active, with_gradient ? factor[lane] : Real(0),
                                     tile_linear[lane], tile_product[lane]);
          if (with_gradient) values[lane] = slope;
        }
      }
      if (with_gradient) logits.store(gradient.output + offset, problem.bins, tile_rows, columns);
      const bool more_follow = start + columns < tile_end;
      for (int lane = 0; lane < lanes; ++lane) {
        linear[tile + lane] +=
            more_follow ? SoftplusSum<Real>{tile_linear[lane], tile_product[lane]}.value() : tile_linear[lane];
        product[tile + lane] = tile_product[lane];
      }
    }
  }
  double loss_sum = 0;
#pragma omp simd reduction(+ : loss_sum)
  for (int row = 0; row < rows; ++row) {
    const Real loss = chunk.factor[row] * SoftplusSum<Real>{linear[row], product[row]}.value();
    linear[row] = chunk.factor[row] == Real(0) ? Real(0) : loss;
    loss_sum += linear[row];
  }
  if (losses) std::copy_n(linear, rows, losses + first);
  return loss_sum;
}

}  // namespace survcore
