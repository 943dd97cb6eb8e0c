// discrete_hazard_nll where all valid rows count alike and only their sum is wanted: the logits are one stream of
// vectors, whichever rows an element and its neighbours belong to, and nothing is turned. What an element's row asks of
// it stands in one integer, which is spread from the rows' by a permutation, the same for each block of `lanes` rows.
//
// Cost: one exponential per bin and one logarithm for about 60; each logit is read once and its gradient written once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/dispatch.h"
#include "common/hazard_problem.h"
#include "core/hazard.h"

namespace survcore {

// Row and bin of the elements of `lanes` rows that follow each other, one vector of `bytes` after the other.
template <class Real, int bytes>
struct HazardPattern {
  using Lane = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;
  typedef Lane Lanes __attribute__((vector_size(bytes)));
  static constexpr int lanes = bytes / sizeof(Real);
  static constexpr int32_t most_bins = 64;

  alignas(64) Lane row[most_bins * lanes];
  // The key of a row that ends at `end` is 2 end, plus 1 if it is censored: bin j is active if 2 j + 1 is below it, and
  // the event's if 2 j + 2 is equal to it.
  alignas(64) Lane active_above[most_bins * lanes];
  alignas(64) Lane flipped_at[most_bins * lanes];

  explicit HazardPattern(int32_t bins) {
    int element = 0;
    for (int lane = 0; lane < lanes; ++lane) {
      for (int32_t bin = 0; bin < bins; ++bin, ++element) {
        row[element] = lane;
        active_above[element] = 2 * bin + 1;
        flipped_at[element] = 2 * bin + 2;
      }
    }
  }

  static SURVCORE_INLINE Lane key(HazardRow row) { return 2 * Lane(row.end) + (row.flipped < 0 ? 1 : 0); }

  // keys[i] = row_keys[row of element first + i] for a vector of elements.
  SURVCORE_INLINE void spread(const Lane* row_keys, int first, Lane* keys) const {
#if defined(__GNUC__) && !defined(__clang__)
    *reinterpret_cast<Lanes*>(keys) =
        __builtin_shuffle(*reinterpret_cast<const Lanes*>(row_keys), *reinterpret_cast<const Lanes*>(row + first));
#else
    for (int lane = 0; lane < lanes; ++lane) keys[lane] = row_keys[row[first + lane]];
#endif
  }
};

// Sum of the losses of whole blocks of `lanes` rows with these keys.
template <bool with_gradient, int bytes, class Real>
SURVCORE_INLINE double hazard_blocks(const HazardPattern<Real, bytes>& pattern,
                                     const typename HazardPattern<Real, bytes>::Lane* row_keys, const Real* logits,
                                     int blocks, int32_t bins, Real factor, Real* gradient) {
  using Pattern = HazardPattern<Real, bytes>;
  constexpr int lanes = Pattern::lanes;
  Real linear[lanes] = {};
  Real product[lanes] = {};
  double total[lanes] = {};
  int64_t terms = 0;
  for (int block = 0; block < blocks; ++block, row_keys += lanes) {
    for (int first = 0; first < bins * lanes; first += lanes) {
      alignas(64) typename Pattern::Lane key[lanes];
      pattern.spread(row_keys, first, key);
      const auto* active_above = pattern.active_above + first;
      const auto* flipped_at = pattern.flipped_at + first;
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane) {
        const bool active = active_above[lane] < key[lane];
        const bool flipped = flipped_at[lane] == key[lane];
        const Real slope = add_bin(logits[lane], flipped, active, factor, linear[lane], product[lane]);
        if (with_gradient) gradient[lane] = slope;
      }
      logits += lanes;
      if (with_gradient) gradient += lanes;
    }
    terms += bins;
    if (terms + bins > SoftplusSum<Real>::capacity || block + 1 == blocks) {
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane) {
        total[lane] += linear[lane] + log1p_nonnegative(product[lane]);
        linear[lane] = product[lane] = 0;
      }
      terms = 0;
    }
  }
  double result = 0;
  for (int lane = 0; lane < lanes; ++lane) result += total[lane];
  return result;
}

// Sum of the losses of rows [first, last) of a uniform problem with at most `most_bins` bins.
template <bool with_gradient, int bytes, class Real>
SURVCORE_INLINE double hazard_stream(const HazardPattern<Real, bytes>& pattern, const HazardProblem<Real>& problem,
                                     int64_t first, int64_t last, Real factor, Real* gradient) {
  using Pattern = HazardPattern<Real, bytes>;
  using Lane = typename Pattern::Lane;
  constexpr int lanes = Pattern::lanes;
  const int rows = static_cast<int>(last - first);
  const int32_t bins = problem.bins;
  const int64_t* time_bin = problem.time_bin + first;
  const HazardForm form = problem.form;
  alignas(64) int32_t event[hazard_chunk_rows];
  alignas(64) Lane keys[hazard_chunk_rows];
  problem.event.read(first, rows, event);
  int32_t invalid = 0;
#pragma omp simd reduction(+ : invalid)
  for (int row = 0; row < rows; ++row) {
    const bool valid = hazard_row_valid(time_bin[row], event[row], bins);
    const Lane key = Pattern::key(hazard_row(time_bin[row], event[row], form));
    keys[row] = valid ? key : Lane(0);  // reads nothing
    invalid += valid ? 0 : 1;
  }
  const Real* logits = problem.logits + first * bins;
  Real* output = with_gradient ? gradient + first * bins : nullptr;
  const int blocks = rows / lanes;
  double result = hazard_blocks<with_gradient>(pattern, keys, logits, blocks, bins, factor, output);
  const int row = blocks * lanes;
  if (row < rows) {  // the last rows, filled up to a block with rows that read nothing
    alignas(64) Real block[Pattern::most_bins * lanes];
    const int filled = (rows - row) * bins;
    std::copy_n(logits + row * bins, filled, block);
    std::fill_n(block + filled, lanes * bins - filled, Real(0));
    std::fill_n(keys + rows, lanes - (rows - row), Lane(0));
    result += hazard_blocks<with_gradient>(pattern, keys + row, block, 1, bins, factor, block);
    if (with_gradient) std::copy_n(block, filled, output + row * bins);
  }
  if (invalid == 0) return result;
  constexpr Real nan = std::numeric_limits<Real>::quiet_NaN();
  for (int row = 0; with_gradient && row < rows; ++row) {
    if (!hazard_row_valid(time_bin[row], event[row], bins)) std::fill_n(output + row * bins, bins, nan);
  }
  return nan;
}

}  // namespace survcore
