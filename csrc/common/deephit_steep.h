// DeepHit's loss where 1 / sigma is so large that exp(F / sigma) leaves the range of its type: row by row in double
// precision, with a shift per column for each of the two factors of the ranking term (common/deephit_tile.h). It
// overflows where an exponential of a pair does, and nowhere else.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/deephit_tile.h"
#include "common/scratch.h"
#include "core/deephit.h"

namespace survcore {

// The factors of a column's ranking term.
struct SteepColumn {
  double largest = -std::numeric_limits<double>::infinity();  // F of the rows compared
  double smallest = std::numeric_limits<double>::infinity();  // F of the events
  double compared = 0;                                        // sum of exp((F - largest) / sigma) over the former
  double events = 0;                                          // sum of w exp((smallest - F) / sigma) over the latter
};

// The loss, and its gradient where that is not null. causes_read(row) is what cause_of gives.
template <class Real, class Causes>
double steep_deephit_loss(const DeepHitProblem<Real>& problem, const Causes& causes_read, Real* gradient) {
  const int32_t columns = problem.columns();
  const int32_t bins = problem.bins;
  const double sigma = problem.sigma;
  Scratch<double> cumulative(problem.rows * columns);  // F
  std::vector<SteepColumn> steep(columns);

  const auto row_of = [&](int64_t row) { return deephit_row(problem.time_bin[row], causes_read(row), bins); };
  const auto exact_row = [&](int64_t row, DeepHitRow read) {
    return ExactDeepHitRow<Real>(problem.logits + row * columns, read, problem.causes, bins);
  };
  // Calls each(row, its entries of F, what it is, its weight) for all rows.
  const auto for_each_row = [&](const auto& each) {
    for (int64_t row = 0; row < problem.rows; ++row) {
      each(row, &cumulative[row * columns], row_of(row), problem.weight(row));
    }
  };
  // Calls compare(column) for all columns in which the row is compared.
  const auto for_each_compared = [&](DeepHitRow read, const auto& compare) {
    for (int32_t cause = 0; cause < problem.causes; ++cause) {
      for (int32_t bin = 0; bin < read.compared; ++bin) compare(cause * bins + bin);
    }
  };

  double loss_sum = 0;
  double weight_sum = 0;
  for_each_row([&](int64_t row, double* values, DeepHitRow read, double weight) {
    const ExactDeepHitRow<Real> exact = exact_row(row, read);
    for (int32_t cause = 0; cause < problem.causes; ++cause) {
      double sum = 0;
      for (int32_t bin = 0; bin < bins; ++bin) {
        values[cause * bins + bin] = sum += exact.probability(cause * bins + bin);
      }
    }
    weight_sum += weight;
    if (weight == 0) return;
    loss_sum += read.cause == undefined_cause ? std::numeric_limits<double>::quiet_NaN() : weight * exact.loss();
  });
  const double divisor = weight_sum == 0 ? 1 : weight_sum;
  const double of_likelihood = problem.alpha / divisor;
  double loss = problem.alpha == 0 && !std::isnan(loss_sum) ? 0 : of_likelihood * loss_sum;

  const double of_ranking = (1 - problem.alpha) / (static_cast<double>(problem.rows) * divisor);
  if (problem.ranked()) {
    for_each_row([&](int64_t, double* values, DeepHitRow read, double weight) {
      for_each_compared(read, [&](int32_t c) { steep[c].largest = std::max(steep[c].largest, values[c]); });
      if (read.own < 0 || weight == 0) return;
      steep[read.own].smallest = std::min(steep[read.own].smallest, values[read.own]);
    });
    for_each_row([&](int64_t, double* values, DeepHitRow read, double weight) {
      for_each_compared(read,
                        [&](int32_t c) { steep[c].compared += std::exp((values[c] - steep[c].largest) / sigma); });
      if (read.own < 0 || weight == 0) return;
      SteepColumn& own = steep[read.own];
      own.events += weight * std::exp((own.smallest - values[read.own]) / sigma);
    });
    for (const SteepColumn& column : steep) {
      if (column.compared == 0 || column.events == 0) continue;
      loss += of_ranking * column.compared * column.events * std::exp((column.largest - column.smallest) / sigma);
    }
  }
  if (gradient == nullptr) return loss;

  std::vector<double> sums(columns);  // gradient of each probability, from the ranking term
  for_each_row([&](int64_t row, double* values, DeepHitRow read, double weight) {
    std::fill(sums.begin(), sums.end(), 0.0);
    bool takes_part = weight != 0;
    if (problem.ranked()) {
      for_each_compared(read, [&](int32_t c) {
        if (steep[c].events == 0) return;
        takes_part = true;
        sums[c] = of_ranking / sigma * steep[c].events * std::exp((values[c] - steep[c].smallest) / sigma);
      });
      if (read.own >= 0 && weight != 0 && steep[read.own].compared != 0) {
        const SteepColumn& own = steep[read.own];
        sums[read.own] =
            -of_ranking / sigma * weight * own.compared * std::exp((own.largest - values[read.own]) / sigma);
      }
    }
    if (!takes_part) {
      std::fill_n(gradient + row * columns, columns, Real(0));
      return;
    }
    const ExactDeepHitRow<Real> exact = exact_row(row, read);
    double mean = 0;
    for (int32_t cause = 0; cause < problem.causes; ++cause) {
      double sum = 0;
      for (int32_t column = (cause + 1) * bins - 1; column >= cause * bins; --column) {
        sums[column] = sum += sums[column];
        mean += exact.probability(column) * sum;
      }
    }
    const double unknown = read.cause == undefined_cause ? std::numeric_limits<double>::quiet_NaN() : weight;
    const double likelihood = weight == 0 ? 0 : of_likelihood * unknown;
    for (int32_t column = 0; column < columns; ++column) {
      const double probability = exact.probability(column);
      const double value =
          probability * (sums[column] - mean) + likelihood * (probability - exact.probability_if_possible(column));
      gradient[row * columns + column] = static_cast<Real>(value);
    }
  });
  return loss;
}

}  // namespace survcore
