// DeepHit's loss in tiles of sixteen rows, one row per vector lane (common/row_tile.h).
//
// The ranking term of cause r is a sum over pairs, exp(-(F_i(k_i) - F_j(k_i)) / sigma) with i an event in bin k_i and j
// compared with it. Its factors are of one row each, so that it is a sum over bins: of G(k) = sum of exp(F_j(k) /
// sigma) over the rows compared at k, times H(k) = sum of w_i exp(-F_i(k) / sigma) over the events in k. One pass over
// the rows finds G and H, a second one the gradients; a row and column costs two exponentials. Exponents reach 1 /
// sigma only: where that is small enough, nothing overflows or underflows, without any shift (others:
// common/deephit_steep.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "common/dispatch.h"
#include "common/row_tile.h"
#include "core/deephit.h"
#include "core/elementary.h"
#include "core/exp_within.h"

namespace survcore {

// One call's data.
template <class Real>
struct DeepHitProblem {
  const Real* logits;       // [rows, causes, bins]
  const int64_t* time_bin;  // [rows]
  const Real* weights;      // [rows], or null: all 1
  int64_t rows;
  int32_t causes;
  int32_t bins;
  double alpha;
  double sigma;

  int32_t columns() const { return causes * bins; }
  bool ranked() const { return alpha != 1; }
  double weight(int64_t row) const { return weights ? static_cast<double>(weights[row]) : 1.0; }
};

// The largest 1 / sigma for which sums of exp(F / sigma), and of its inverse over the square of the number of rows,
// stay in range.
template <class Real>
constexpr double steepest_slope = sizeof(Real) == sizeof(float) ? 40 : 600;

// Sums over rows, in double precision, and where they stand in a chunk's entries.
struct DeepHitSums {
  double* compared;  // [columns] G
  double* events;    // [columns] H
  double* totals;    // weighted loss of the likelihood, weights

  static int64_t size(int32_t columns) { return 2 * int64_t(columns) + 2; }
  DeepHitSums(double* entries, int32_t columns)
      : compared(entries), events(entries + columns), totals(entries + 2 * int64_t(columns)) {}
};

// What the second pass multiplies with.
template <class Real>
struct DeepHitFactors {
  const Real* compared;  // [columns] gradient of exp(F_j(k) / sigma)
  const Real* events;    // [columns] gradient of w_i exp(-F_i(k) / sigma)
  Real likelihood;       // of a row's weight
  int32_t first_ranked;  // the first bin, of any cause, with an event that rows are compared with; the bins: none
};

// The first bin with an event that counts, of any cause, given H.
inline int32_t first_ranked_bin(const double* events, int32_t causes, int32_t bins) {
  for (int32_t bin = 0; bin < bins; ++bin) {
    for (int32_t cause = 0; cause < causes; ++cause) {
      if (events[cause * int64_t(bins) + bin] != 0) return bin;
    }
  }
  return bins;
}

constexpr int deephit_chunk_rows = 512;

// The rows of a chunk, filled up to whole tiles with rows that nothing is read of. One array per quantity, computed in
// short loops of one kind of number each, which compilers vectorise.
template <class Real>
struct DeepHitChunkRows {
  static constexpr int lanes = RowTile<Real>::lanes;

  alignas(64) int32_t cause[deephit_chunk_rows];
  alignas(64) int32_t own[deephit_chunk_rows];
  alignas(64) int32_t compared[deephit_chunk_rows];
  alignas(64) int32_t possible[deephit_chunk_rows];
  alignas(64) Real weight[deephit_chunk_rows];
  // The weight; NaN for an invalid row, unless it has no weight.
  alignas(64) Real factor[deephit_chunk_rows];

  // `causes_read` as cause_of gives them.
  SURVCORE_INLINE DeepHitChunkRows(const DeepHitProblem<Real>& problem, int64_t first, int rows,
                                   const int32_t* causes_read) {
    const int64_t* time_bin = problem.time_bin + first;
    const int32_t bins = problem.bins;
#pragma omp simd
    for (int row = 0; row < rows; ++row) {
      const DeepHitRow read = deephit_row(time_bin[row], causes_read[row], bins);
      cause[row] = read.cause;
      own[row] = read.own;
      compared[row] = read.compared;
      possible[row] = read.possible;
    }
    for (int row = 0; row < rows; ++row) weight[row] = problem.weights ? problem.weights[first + row] : Real(1);
#pragma omp simd
    for (int row = 0; row < rows; ++row) {
      const Real known = cause[row] == undefined_cause ? std::numeric_limits<Real>::quiet_NaN() : weight[row];
      factor[row] = weight[row] == Real(0) ? Real(0) : known;
    }
    for (int row = rows; row % lanes != 0; ++row) {
      cause[row] = own[row] = undefined_cause;
      compared[row] = possible[row] = 0;
      weight[row] = factor[row] = 0;
    }
  }

  SURVCORE_INLINE DeepHitRow row(int index) const {
    return {cause[index], own[index], compared[index], possible[index]};
  }

  // The bins in which a row of the tile is compared or has its event end here.
  SURVCORE_INLINE int32_t ranked_bins(int tile) const {
    int32_t result = 0;
#pragma omp simd reduction(max : result)
    for (int lane = 0; lane < lanes; ++lane) {
      result = std::max(result, compared[tile + lane] + (own[tile + lane] >= 0 ? 1 : 0));
    }
    return result;
  }
};

// What the first pass finds of sixteen rows, and the second one needs.
template <class Real>
struct DeepHitTile {
  static constexpr int lanes = RowTile<Real>::lanes;
  // Below it, exponentials that were cut off may count.
  static constexpr Real least_possible = sizeof(Real) == sizeof(float) ? Real(1e-28) : Real(1e-280);

  Real* exponential;  // [columns, lanes] exp(logit - largest)
  Real* ranking;      // [columns, lanes] exp(F / sigma) where compared, else 0; the second pass's own after it
  Real* possible;     // [lanes] sum of the exponentials of possible outcomes
  Real* impossible;   // [lanes] and of the others
  Real* event;        // [lanes] exp(-F / sigma) at the row's own event

  static int64_t size(int32_t columns) { return (2 * int64_t(columns) + 3) * lanes; }
  DeepHitTile(Real* memory, int32_t columns)
      : exponential(memory),
        ranking(memory + int64_t(columns) * lanes),
        possible(memory + 2 * int64_t(columns) * lanes),
        impossible(possible + lanes),
        event(possible + 2 * lanes) {}

  SURVCORE_INLINE void fill(const DeepHitProblem<Real>& problem, const DeepHitChunkRows<Real>& chunk, int first,
                            const Real* logits, int rows) {
    constexpr Real largest_finite = std::numeric_limits<Real>::max();
    const int32_t columns = problem.columns();
    const int32_t bins = problem.bins;
    alignas(64) Real shift[lanes] = {};
    RowTile<Real> source;
    for (int32_t start = 0; start < columns; start += RowTile<Real>::capacity) {
      const int width = std::min<int32_t>(columns - start, RowTile<Real>::capacity);
      source.load(logits + start, columns, rows, width);
      RowTile<Real>::prefetch(logits + start + lanes * int64_t(columns), columns, width);
      for (int column = 0; column < width; ++column) {
        Real* x = exponential + (start + column) * lanes;
#pragma omp simd
        for (int lane = 0; lane < lanes; ++lane) {
          const Real value = source.values[column][lane];
          const Real finite = value > largest_finite ? largest_finite : value;
          x[lane] = finite;
          shift[lane] = finite > shift[lane] ? finite : shift[lane];
        }
      }
    }
    alignas(64) Real possible_sum[lanes];
    alignas(64) Real impossible_sum[lanes];
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      const Real beyond = exp_nonpositive(-shift[lane]);
      const bool censored = chunk.cause[first + lane] == 0;
      possible_sum[lane] = censored ? beyond : Real(0);
      impossible_sum[lane] = censored ? Real(0) : beyond;
    }
    for (int32_t cause = 0; cause < problem.causes; ++cause) {
      alignas(64) int32_t count[lanes];
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane) count[lane] = possible_bins(chunk.cause[first + lane], cause, bins);
      for (int32_t bin = 0; bin < bins; ++bin) {
        Real* x = exponential + (cause * bins + bin) * lanes;
#pragma omp simd
        for (int lane = 0; lane < lanes; ++lane) {
          const Real value = exp_nonpositive(x[lane] - shift[lane]);
          const bool counts = is_possible(bin, chunk.possible[first + lane], count[lane]);
          x[lane] = value;
          const Real counted = counts ? value : Real(0);
          possible_sum[lane] += counted;
          impossible_sum[lane] += value - counted;  // the value or 0, without another comparison
        }
      }
    }
    alignas(64) Real slope[lanes];
    alignas(64) Real own_sum[lanes] = {};
    const Real inverse_sigma = static_cast<Real>(1 / problem.sigma);
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      possible[lane] = possible_sum[lane];
      impossible[lane] = impossible_sum[lane];
      slope[lane] = inverse_sigma / (possible_sum[lane] + impossible_sum[lane]);
    }
    const int32_t ranked_bins = problem.ranked() ? chunk.ranked_bins(first) : 0;
    for (int32_t cause = 0; cause < problem.causes; ++cause) {
      alignas(64) Real sum[lanes] = {};
      for (int32_t bin = 0; bin < ranked_bins; ++bin) {
        const int32_t column = cause * bins + bin;
        const Real* x = exponential + column * lanes;
        Real* result = ranking + column * lanes;
#pragma omp simd
        for (int lane = 0; lane < lanes; ++lane) {
          sum[lane] += x[lane];
          const Real value = exp_within(sum[lane] * slope[lane]);
          result[lane] = bin < chunk.compared[first + lane] ? value : Real(0);
          own_sum[lane] = column == chunk.own[first + lane] ? sum[lane] : own_sum[lane];
        }
      }
      std::fill(ranking + (cause * bins + ranked_bins) * lanes, ranking + (cause + 1) * bins * lanes, Real(0));
    }
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) event[lane] = exp_within(-own_sum[lane] * slope[lane]);
  }

  // Calls each(lane) for the rows of a tile whose likelihood is out of a vector's reach, given what it is multiplied
  // with: neither 0 nor NaN.
  template <class Each>
  SURVCORE_INLINE void for_each_exact(int rows, const Real* factor, const Each& each) const {
    const auto exact = [&](int lane) SURVCORE_INLINE_LAMBDA {
      return (possible[lane] < least_possible) & (factor[lane] != Real(0)) & (factor[lane] == factor[lane]);
    };
    int32_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int lane = 0; lane < lanes; ++lane) count += exact(lane) ? 1 : 0;
    if (count == 0) return;
    for (int lane = 0; lane < rows; ++lane) {
      if (exact(lane)) each(lane);
    }
  }

  // Calls each(lane) for the rows of a tile that the loss does not depend on: without weight, and compared with no
  // event.
  template <class Each>
  static SURVCORE_INLINE void for_each_unread(int rows, const Real* factor, const int32_t* compared,
                                              int32_t first_ranked, const Each& each) {
    int32_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int lane = 0; lane < lanes; ++lane) {
      count += (factor[lane] == Real(0)) & (compared[lane] <= first_ranked) ? 1 : 0;
    }
    if (count == 0) return;
    for (int lane = 0; lane < rows; ++lane) {
      if (factor[lane] == Real(0) && compared[lane] <= first_ranked) each(lane);
    }
  }

  // Writes the gradient of `rows` rows; exp(F / sigma) is lost.
  SURVCORE_INLINE void write_gradient(const DeepHitProblem<Real>& problem, const DeepHitChunkRows<Real>& chunk,
                                      int first, const Real* logits, int rows, const DeepHitFactors<Real>& factors,
                                      Real* gradient) {
    const int32_t columns = problem.columns();
    const int32_t bins = problem.bins;
    alignas(64) Real inverse[lanes];
    alignas(64) Real own_gradient[lanes];
    alignas(64) Real mean[lanes] = {};  // of the ranking gradients of p, under p, times the sum of exponentials
    alignas(64) Real likelihood[lanes];
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      inverse[lane] = Real(1) / (possible[lane] + impossible[lane]);
      likelihood[lane] = factors.likelihood * chunk.factor[first + lane];
    }
    RowTile<Real>::prefetch(gradient, columns, columns);  // what is written is fetched first
    const int32_t ranked_bins = problem.ranked() ? chunk.ranked_bins(first) : 0;
    for (int lane = 0; lane < lanes; ++lane) {
      const int32_t own = chunk.own[first + lane];
      const Real weight = chunk.weight[first + lane];
      const bool counts = problem.ranked() && own >= 0 && weight != Real(0);
      own_gradient[lane] = counts ? weight * event[lane] * factors.events[own] : Real(0);
    }
    for (int32_t cause = 0; cause < problem.causes; ++cause) {
      alignas(64) Real sum[lanes] = {};
      for (int32_t bin = ranked_bins - 1; bin >= 0; --bin) {
        const int32_t column = cause * bins + bin;
        const Real* x = exponential + column * lanes;
        Real* value = ranking + column * lanes;
        const Real factor = factors.compared[column];
#pragma omp simd
        for (int lane = 0; lane < lanes; ++lane) {
          const Real own = column == chunk.own[first + lane] ? own_gradient[lane] : Real(0);
          // A row that is not compared is not to see what the factor is.
          sum[lane] += bin < chunk.compared[first + lane] ? value[lane] * factor : own;
          value[lane] = sum[lane];
          mean[lane] += x[lane] * sum[lane];
        }
      }
    }
    alignas(64) Real centre[lanes];
    alignas(64) Real if_possible[lanes];
    alignas(64) Real if_impossible[lanes];
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      // Where a column has nearly all probability, its ranking gradient less this is the difference of two numbers that
      // may be far larger than the likelihood's gradient: that one is added only then.
      centre[lane] = mean[lane] * inverse[lane];
      const Real quotient = impossible[lane] / possible[lane];
      if_impossible[lane] = likelihood[lane] * inverse[lane];
      // 1 / total - 1 / possible, without cancellation; 1 / total where the other is added later.
      const Real added = possible[lane] < least_possible ? likelihood[lane] : -likelihood[lane] * quotient;
      if_possible[lane] = added * inverse[lane];
    }
    RowTile<Real> result;
    alignas(64) int32_t count[lanes];
    for (int32_t start = 0; start < columns; start += RowTile<Real>::capacity) {
      const int width = std::min<int32_t>(columns - start, RowTile<Real>::capacity);
      int32_t cause = start / bins;
      int32_t bin = start % bins;
      for (int column = 0; column < width; ++cause, bin = 0) {
        const int end = std::min<int>(width, column + bins - bin);
#pragma omp simd
        for (int lane = 0; lane < lanes; ++lane) count[lane] = possible_bins(chunk.cause[first + lane], cause, bins);
        for (; column < end; ++column, ++bin) {
          const Real* x = exponential + (start + column) * lanes;
          const Real* sum = ranking + (start + column) * lanes;
#pragma omp simd
          for (int lane = 0; lane < lanes; ++lane) {
            const bool counts = is_possible(bin, chunk.possible[first + lane], count[lane]);
            const Real rest = counts ? if_possible[lane] : if_impossible[lane];
            result.values[column][lane] = x[lane] * ((sum[lane] - centre[lane]) * inverse[lane] + rest);
          }
        }
      }
      result.store(gradient + start, columns, rows, width);
    }
    for_each_exact(rows, likelihood, [&](int row) {
      const ExactDeepHitRow<Real> exact(logits + row * int64_t(columns), chunk.row(first + row), problem.causes, bins);
      Real* values = gradient + row * int64_t(columns);
      for (int32_t column = 0; column < columns; ++column) {
        values[column] -= likelihood[row] * static_cast<Real>(exact.probability_if_possible(column));
      }
    });
    for_each_unread(rows, chunk.factor + first, chunk.compared + first, factors.first_ranked,
                    [&](int row) { std::fill_n(gradient + row * int64_t(columns), columns, Real(0)); });
  }
};

// The first pass over `rows` rows from `first` on, the second tile after the first and so on in `tiles`, or all in the
// first one's place. `lane_sums` is [columns, lanes] of work space.
template <class Real>
SURVCORE_INLINE void deephit_sums(const DeepHitProblem<Real>& problem, int64_t first, int rows,
                                  const int32_t* causes_read, bool keep, Real* tiles, Real* lane_sums,
                                  DeepHitSums sums) {
  constexpr int lanes = RowTile<Real>::lanes;
  const DeepHitChunkRows<Real> chunk(problem, first, rows, causes_read);
  const int32_t columns = problem.columns();
  const int64_t entries = int64_t(columns) * lanes;
  std::fill_n(sums.events, columns, 0.0);
  std::fill_n(lane_sums, entries, Real(0));
  alignas(64) Real losses[deephit_chunk_rows];
  for (int start = 0; start < rows; start += lanes) {
    DeepHitTile<Real> tile(tiles + (keep ? start / lanes * DeepHitTile<Real>::size(columns) : 0), columns);
    const int tile_rows = std::min(lanes, rows - start);
    const Real* logits = problem.logits + (first + start) * columns;
    tile.fill(problem, chunk, start, logits, tile_rows);
#pragma omp simd
    for (int64_t i = 0; i < entries; ++i) lane_sums[i] += tile.ranking[i];
    for (int lane = 0; lane < tile_rows; ++lane) {
      const int32_t own = chunk.own[start + lane];
      const Real weight = chunk.weight[start + lane];
      if (own >= 0 && weight != Real(0)) {
        sums.events[own] += static_cast<double>(weight) * static_cast<double>(tile.event[lane]);
      }
    }
    const Real* factor = chunk.factor + start;
    Real* loss = losses + start;
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      const Real possible = tile.possible[lane] < DeepHitTile<Real>::least_possible ? Real(1) : tile.possible[lane];
      const Real value = factor[lane] * log1p_nonnegative(tile.impossible[lane] / possible);
      loss[lane] = factor[lane] == Real(0) ? Real(0) : value;
    }
    tile.for_each_exact(tile_rows, factor, [&](int lane) {
      const ExactDeepHitRow<Real> exact(logits + lane * int64_t(columns), chunk.row(start + lane), problem.causes,
                                        problem.bins);
      loss[lane] = factor[lane] * static_cast<Real>(exact.loss());
    });
  }
  double loss_sum = 0;
  double weight_sum = 0;
#pragma omp simd reduction(+ : loss_sum, weight_sum)
  for (int row = 0; row < rows; ++row) {
    loss_sum += losses[row];
    weight_sum += chunk.weight[row];
  }
  sums.totals[0] = loss_sum;
  sums.totals[1] = weight_sum;
  for (int32_t column = 0; column < columns; ++column) {
    double sum = 0;
    for (int lane = 0; lane < lanes; ++lane) sum += lane_sums[column * lanes + lane];
    sums.compared[column] = sum;
  }
}

// The second pass, over the tiles that the first one kept, or without them.
template <class Real>
SURVCORE_INLINE void deephit_gradient(const DeepHitProblem<Real>& problem, int64_t first, int rows,
                                      const int32_t* causes_read, bool kept, Real* tiles,
                                      const DeepHitFactors<Real>& factors, Real* gradient) {
  constexpr int lanes = RowTile<Real>::lanes;
  const DeepHitChunkRows<Real> chunk(problem, first, rows, causes_read);
  const int32_t columns = problem.columns();
  for (int start = 0; start < rows; start += lanes) {
    DeepHitTile<Real> tile(tiles + (kept ? start / lanes * DeepHitTile<Real>::size(columns) : 0), columns);
    const int tile_rows = std::min(lanes, rows - start);
    const Real* logits = problem.logits + (first + start) * columns;
    if (!kept) tile.fill(problem, chunk, start, logits, tile_rows);
    tile.write_gradient(problem, chunk, start, logits, tile_rows, factors, gradient + (first + start) * columns);
  }
}

}  // namespace survcore
