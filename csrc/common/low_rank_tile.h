// What the kernels of low_rank_decompose work on: the parts that rows own, addressed in the tensors and gathered per
// tile.
//
// A part is u_m, called part (m, m), or c_{m<-n}, part (m, n).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/matrix_tile.h"

namespace survcore {

// Two tensors addressed as parts: [M, B, D] for the specific ones and [M, M, B, D] for the cross ones.
template <class Real>
struct LowRankParts {
  Real* specific;
  Real* cross;
  int64_t modalities;
  int64_t rows;
  int64_t width;

  Real* at(int64_t m, int64_t n, int64_t row) const {
    return m == n ? specific + (m * rows + row) * width : cross_at(m, n, row);
  }
  Real* cross_at(int64_t m, int64_t n, int64_t row) const {
    return cross + ((m * modalities + n) * rows + row) * width;
  }
};

// One call's inputs.
template <class Real>
struct LowRankProblem {
  int64_t modalities;
  int64_t rows;
  int64_t width;
  int64_t rank;
  const bool* availability;  // [B, M]
  const Real* whole;         // [M, B, D]
  LowRankParts<const Real> parts;
  Panels<Real> basis;                        // D deep, r columns
  Panels<Real> transposed;                   // r deep, D columns
  std::vector<double> accompanied_weight{};  // [M]: 1 / number of rows that own m and another modality, 0 without any
  std::vector<double> pair_weight{};         // [M, M]: 1 / number of rows that own both, 0 without any

  bool owns(int64_t row, int64_t m) const { return availability[row * modalities + m]; }
  bool owns(int64_t row, int64_t m, int64_t n) const { return owns(row, m) && owns(row, n); }

  // Modalities of the row beside m.
  int64_t others(int64_t row, int64_t m) const {
    int64_t count = 0;
    for (int64_t n = 0; n < modalities; ++n) count += n != m && owns(row, n);
    return count;
  }

  void weigh_rows() {
    accompanied_weight.assign(modalities, 0);
    pair_weight.assign(modalities * modalities, 0);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t m = 0; m < modalities; ++m) {
        if (!owns(row, m)) continue;
        accompanied_weight[m] += others(row, m) > 0;
        for (int64_t n = 0; n < modalities; ++n) pair_weight[m * modalities + n] += owns(row, n);
      }
    }
    for (auto* weights : {&accompanied_weight, &pair_weight}) {
      for (double& weight : *weights) weight = weight > 0 ? 1 / weight : 0;
    }
  }
};

// The parts that a few rows own, gathered as the rows of one matrix, and room for what is made of them. Widths are
// padded to whole panels.
template <class Real>
struct LowRankTile {
  int64_t width;
  int64_t rank;
  std::vector<Real> parts;                 // X [capacity, width]
  std::vector<Real> coordinates;           // X B [capacity, rank]
  std::vector<Real> gradients;             // G [capacity, width]
  std::vector<Real> gradient_coordinates;  // G B [capacity, rank]
  std::vector<Real> projected;             // of X or of G, [capacity, width]
  std::vector<int64_t> slots;              // [rows of the tile, M, M]: which row of X a part is, -1 where it is lacking
  std::vector<char> specific;              // [capacity]: whether it is a specific part
  int64_t count = 0;                       // rows of X in use

  LowRankTile(const LowRankProblem<Real>& problem, bool backward)
      : width(padded_width(problem)), rank(round_up(problem.rank, panel_columns<Real>)) {
    const int64_t squared = problem.modalities * problem.modalities;
    const int64_t capacity = round_up(rows_of(problem) * squared, most_block_rows);
    parts.resize(capacity * width);
    coordinates.resize(capacity * rank);
    gradients.resize(backward ? capacity * width : 0);
    gradient_coordinates.resize(backward ? capacity * rank : 0);
    projected.resize(capacity * width);
    slots.resize(rows_of(problem) * squared);
    specific.resize(capacity);
  }

  static int64_t padded_width(const LowRankProblem<Real>& problem) {
    return round_up(problem.width, std::max(panel_columns<Real>, most_block_rows));
  }

  static int64_t rows_of(const LowRankProblem<Real>& problem) {
    constexpr int64_t usual_parts = 32;
    return std::max<int64_t>(1, usual_parts / (problem.modalities * problem.modalities));
  }

  // Gathers the parts of rows [begin, end).
  SURVCORE_INLINE void gather(const LowRankProblem<Real>& problem, int64_t begin, int64_t end) {
    count = 0;
    int64_t* slot = slots.data();
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t m = 0; m < problem.modalities; ++m) {
        for (int64_t n = 0; n < problem.modalities; ++n, ++slot) {
          *slot = problem.owns(row, m, n) ? count++ : -1;
          if (*slot < 0) continue;
          std::copy_n(problem.parts.at(m, n, row), problem.width, &parts[*slot * width]);
          specific[*slot] = m == n;
        }
      }
    }
  }

  // The place in `values` of part (m, n) of the row'th row of the tile.
  SURVCORE_INLINE Real* at(std::vector<Real>& values, const LowRankProblem<Real>& problem, int64_t row, int64_t m,
                           int64_t n) const {
    return &values[slots[(row * problem.modalities + m) * problem.modalities + n] * width];
  }

  template <int bytes>
  SURVCORE_INLINE void multiply_by_basis(const LowRankProblem<Real>& problem, const std::vector<Real>& source,
                                         std::vector<Real>& product) const {
    multiply<bytes, false>(source.data(), width, 1, problem.basis.columns(), round_up(count, most_block_rows), rank,
                           problem.width, product.data(), rank);
  }

  // projected = P source for cross parts and source - P source for specific ones, by way of source_coordinates = source
  // B.
  template <int bytes>
  SURVCORE_INLINE void project(const LowRankProblem<Real>& problem, const std::vector<Real>& source,
                               std::vector<Real>& source_coordinates) {
    multiply_by_basis<bytes>(problem, source, source_coordinates);
    multiply<bytes, false>(source_coordinates.data(), rank, 1, problem.transposed.columns(),
                           round_up(count, most_block_rows), width, problem.rank, projected.data(), width);
    for (int64_t slot = 0; slot < count; ++slot) {
      if (!specific[slot]) continue;
      const Real* whole = &source[slot * width];
      Real* rest = &projected[slot * width];
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) rest[i] = whole[i] - rest[i];
    }
  }

  // Writes the projected parts of the row'th row of the tile to row `target` of `output`, zeros for what it lacks.
  SURVCORE_INLINE void scatter(const LowRankProblem<Real>& problem, int64_t row, const LowRankParts<Real>& output,
                               int64_t target) {
    for (int64_t m = 0; m < problem.modalities; ++m) {
      for (int64_t n = 0; n < problem.modalities; ++n) {
        Real* written = output.at(m, n, target);
        if (problem.owns(target, m, n)) {
          std::copy_n(at(projected, problem, row, m, n), problem.width, written);
        } else {
          std::fill_n(written, problem.width, Real(0));
        }
      }
      std::fill_n(output.cross_at(m, m, target), problem.width, Real(0));
    }
  }
};

}  // namespace survcore
