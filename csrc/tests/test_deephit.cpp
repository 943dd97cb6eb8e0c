// core/deephit.h, core/exp_within.h and the two ways through the rows, common/deephit_tile.h and deephit_steep.h,
// against a loop over all pairs of rows; gradients against difference quotients.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/deephit_steep.h"
#include "common/deephit_tile.h"
#include "core/deephit.h"
#include "core/exp_within.h"
#include "tests/check.h"

using namespace survcore;

namespace {

const double infinity = std::numeric_limits<double>::infinity();
const double nan_value = std::numeric_limits<double>::quiet_NaN();

bool same(DeepHitRow row, int32_t cause, int32_t own, int32_t compared, int32_t possible) {
  return row.cause == cause && row.own == own && row.compared == compared && row.possible == possible;
}

void test_rows() {
  CHECK(cause_of(true, 1) == 1 && cause_of(int64_t(0), 3) == 0 && cause_of(3.0f, 3) == 3);
  CHECK(cause_of(uint8_t(1), 300) == 1);
  for (const double code : {-1.0, 0.5, 4.0, 1e300, infinity, nan_value}) CHECK(cause_of(code, 3) == undefined_cause);
  CHECK(cause_of(int64_t(1) << 40, 3) == undefined_cause);

  CHECK(same(deephit_row(2, 0, 5), 0, -1, 3, 3));
  CHECK(same(deephit_row(2, 1, 5), 1, 2, 2, 2));
  CHECK(same(deephit_row(2, 3, 5), 3, 12, 2, 2));
  for (const int64_t bin : {int64_t(-1), int64_t(5), int64_t(1) << 40}) {
    CHECK(deephit_row(bin, 1, 5).cause == undefined_cause && deephit_row(bin, 1, 5).compared == 0);
  }
  CHECK(deephit_row(2, undefined_cause, 5).own == -1 && deephit_row(2, undefined_cause, 5).compared == 0);

  CHECK(is_possible(2, 2, 1) && !is_possible(1, 2, 1) && !is_possible(3, 2, 1));
  CHECK(!is_possible(0, 0, 0) && is_possible(7, 3, possible_bins(0, 1, 8)));
  CHECK(possible_bins(2, 1, 8) == 1 && possible_bins(2, 0, 8) == 0 && possible_bins(undefined_cause, 0, 8) == 0);
}

void test_exp_within() {
  for (int i = -870; i <= 870; ++i) {
    const float x = 0.1f * static_cast<float>(i);
    CHECK(std::fabs(exp_within(x) / std::exp(static_cast<double>(x)) - 1) < 4e-7);
  }
  for (int i = -708; i <= 708; ++i) CHECK(std::fabs(exp_within(double(i)) / std::exp(double(i)) - 1) < 8e-16);
  CHECK(std::isnan(exp_within(nan_value)) && exp_within(0.0f) == 1);
}

void test_exact_row() {
  const double logits[] = {300, 0, 1, -2, -infinity, 5};  // two causes of three bins
  const ExactDeepHitRow<double> event(logits, deephit_row(1, 1, 3), 2, 3);
  CHECK(event.loss() == 300);
  CHECK(event.probability(0) == 1 && event.probability(4) == 0);
  CHECK(event.probability_if_possible(1) == 1 && event.probability_if_possible(2) == 0);
  const ExactDeepHitRow<double> censored(logits, deephit_row(1, 0, 3), 2, 3);
  const double left = std::exp(1.0) + std::exp(5.0) + 1;
  CHECK(std::fabs(censored.loss() - (300 - std::log(left))) < 1e-12);
  CHECK(std::fabs(censored.probability_if_possible(5) - std::exp(5.0) / left) < 1e-15);
  CHECK(censored.probability_if_possible(1) == 0);
  CHECK((ExactDeepHitRow<double>(logits, deephit_row(1, 2, 3), 2, 3).loss()) == infinity);

  const double certain[] = {infinity, 0, 1};
  CHECK((ExactDeepHitRow<double>(certain, deephit_row(0, 1, 3), 1, 3).loss()) == 0);
  CHECK((ExactDeepHitRow<double>(certain, deephit_row(0, 0, 3), 1, 3).loss()) == infinity);
  const double unknown[] = {nan_value, 0, 1};
  CHECK(std::isnan(ExactDeepHitRow<double>(unknown, deephit_row(1, 1, 3), 1, 3).loss()));
}

struct Rows {
  int64_t count;
  int32_t causes;
  int32_t bins;
  std::vector<double> logits;
  std::vector<int64_t> time_bin;
  std::vector<int32_t> cause;
  std::vector<double> weights;

  Rows(int64_t rows, int32_t causes_, int32_t bins_, double scale) : count(rows), causes(causes_), bins(bins_) {
    for (int64_t i = 0; i < rows * causes * bins; ++i) logits.push_back(scale * std::sin(1.7 * double(i * i % 1009)));
    for (int64_t row = 0; row < rows; ++row) {
      time_bin.push_back(row * row % 31 % bins);
      cause.push_back(static_cast<int32_t>(row * 7 % 5 % (causes + 1)));
      weights.push_back(0.1 + double(row * 13 % 7));
    }
  }

  DeepHitProblem<double> problem(double alpha, double sigma) const {
    return {logits.data(), time_bin.data(), weights.data(), count, causes, bins, alpha, sigma};
  }
};

// As the formula stands, in all pairs.
double loss_over_pairs(const Rows& rows, double alpha, double sigma) {
  const int32_t columns = rows.causes * rows.bins;
  std::vector<double> cumulative(rows.count * columns);
  double likelihood = 0, ranking = 0, weights = 0;
  for (int64_t i = 0; i < rows.count; ++i) {
    const double* x = &rows.logits[i * columns];
    double total = 1, possible = rows.cause[i] == 0 ? 1 : 0;
    for (int32_t c = 0; c < columns; ++c) {
      total += std::exp(x[c]);
      const bool own = c / rows.bins == rows.cause[i] - 1 && c % rows.bins == rows.time_bin[i];
      if (rows.cause[i] == 0 ? c % rows.bins > rows.time_bin[i] : own) possible += std::exp(x[c]);
    }
    for (int32_t c = 0; c < columns; ++c) {
      cumulative[i * columns + c] = std::exp(x[c]) / total + (c % rows.bins ? cumulative[i * columns + c - 1] : 0);
    }
    likelihood += rows.weights[i] * std::log(total / possible);
    weights += rows.weights[i];
  }
  for (int64_t i = 0; i < rows.count; ++i) {
    if (rows.cause[i] == 0) continue;
    const int64_t own = (rows.cause[i] - 1) * rows.bins + rows.time_bin[i];
    for (int64_t j = 0; j < rows.count; ++j) {
      const bool same_bin = rows.time_bin[i] == rows.time_bin[j];
      if (rows.time_bin[i] > rows.time_bin[j] || (same_bin && rows.cause[j] != 0)) continue;
      ranking += rows.weights[i] * std::exp((cumulative[j * columns + own] - cumulative[i * columns + own]) / sigma);
    }
  }
  return alpha * likelihood / weights + (1 - alpha) * ranking / (double(rows.count) * weights);
}

// The two passes over one chunk, with or without tiles kept in between.
double tiled_loss(const Rows& rows, double alpha, double sigma, bool keep, double* gradient) {
  constexpr int lanes = RowTile<double>::lanes;
  const DeepHitProblem<double> problem = rows.problem(alpha, sigma);
  const int32_t columns = problem.columns();
  const int64_t tiles = (rows.count + lanes - 1) / lanes;
  std::vector<double> memory((keep ? tiles : 1) * DeepHitTile<double>::size(columns));
  std::vector<double> lane_sums(columns * lanes);
  std::vector<double> entries(DeepHitSums::size(columns));
  const DeepHitSums sums(entries.data(), columns);
  const int count = static_cast<int>(rows.count);
  deephit_sums(problem, 0, count, rows.cause.data(), keep, memory.data(), lane_sums.data(), sums);
  const double weights = sums.totals[1];
  const double scale = (1 - alpha) / (double(rows.count) * weights);
  double loss = alpha * sums.totals[0] / weights;
  std::vector<double> compared(columns), events(columns);
  for (int32_t c = 0; c < columns; ++c) {
    if (sums.events[c] != 0) loss += scale * sums.compared[c] * sums.events[c];
    compared[c] = scale / sigma * sums.events[c];
    events[c] = -scale / sigma * sums.compared[c];
  }
  const DeepHitFactors<double> factors{compared.data(), events.data(), alpha / weights,
                                       alpha == 1 ? rows.bins : first_ranked_bin(sums.events, rows.causes, rows.bins)};
  deephit_gradient(problem, 0, count, rows.cause.data(), keep, memory.data(), factors, gradient);
  return loss;
}

double steep_loss(const Rows& rows, double alpha, double sigma, double* gradient) {
  return steep_deephit_loss(rows.problem(alpha, sigma), [&](int64_t row) { return rows.cause[row]; }, gradient);
}

void test_losses_and_gradients() {
  struct Size {
    int64_t rows;
    int32_t causes, bins;
  };
  for (const Size size : {Size{1, 1, 1}, {5, 1, 3}, {16, 2, 4}, {17, 1, 8}, {40, 3, 7}, {33, 1, 65}, {50, 2, 40}}) {
    for (const double alpha : {0.2, 1.0}) {
      Rows rows(size.rows, size.causes, size.bins, 1.5);
      const double sigma = 0.1;
      const double expected = loss_over_pairs(rows, alpha, sigma);
      std::vector<double> kept(rows.logits.size(), nan_value), again = kept, steep = kept;
      CHECK(std::fabs(tiled_loss(rows, alpha, sigma, true, kept.data()) / expected - 1) < 1e-13);
      CHECK(std::fabs(tiled_loss(rows, alpha, sigma, false, again.data()) / expected - 1) < 1e-13);
      CHECK(std::fabs(steep_loss(rows, alpha, sigma, steep.data()) / expected - 1) < 1e-13);
      CHECK(kept == again);
      double largest = 0;
      for (std::size_t i = 0; i < steep.size(); ++i) largest = std::fmax(largest, std::fabs(steep[i]));
      for (std::size_t i = 0; i < steep.size(); ++i) CHECK(std::fabs(kept[i] - steep[i]) <= 1e-13 * largest);
      for (std::size_t i = 0; i < rows.logits.size(); i += 1 + rows.logits.size() / 11) {
        const double x = rows.logits[i], step = 1e-5;
        rows.logits[i] = x + step;
        const double above = loss_over_pairs(rows, alpha, sigma);
        rows.logits[i] = x - step;
        const double quotient = (above - loss_over_pairs(rows, alpha, sigma)) / (2 * step);
        rows.logits[i] = x;
        CHECK(std::fabs(kept[i] - quotient) < 1e-7 * (largest + 1e-3));
      }
    }
  }
}

// Pairs that overflow apart from each other, though not together.
void test_steep_ranking() {
  const Rows rows(40, 2, 6, 0.01);
  for (const double sigma : {1e-3, 1e-4}) {
    const double expected = loss_over_pairs(rows, 0.2, sigma);
    CHECK(std::isfinite(expected));
    CHECK(std::fabs(steep_loss(rows, 0.2, sigma, nullptr) / expected - 1) < 1e-10);
  }
}

// A row that the vectors cannot hold beside rows that they can.
void test_far_logits() {
  Rows rows(20, 1, 5, 1.0);
  rows.time_bin[3] = 2;
  rows.cause[3] = 0;
  rows.logits[15] = 2000;
  rows.time_bin[4] = 1;
  rows.cause[4] = 1;
  rows.logits[23] = 3000;
  std::vector<double> tiled(rows.logits.size()), steep = tiled;
  const double loss = tiled_loss(rows, 0.5, 0.5, true, tiled.data());
  CHECK(loss > 0.5 * 2000 * rows.weights[3] / (7 * 20) && std::isfinite(loss));
  CHECK(std::fabs(steep_loss(rows, 0.5, 0.5, steep.data()) / loss - 1) < 1e-13);
  for (std::size_t i = 0; i < tiled.size(); ++i) CHECK(std::fabs(tiled[i] - steep[i]) < 1e-13);
}

// A ranking gradient of a probability of 1, far larger than the likelihood's, is not to take that one with it.
void test_certain_and_censored_there() {
  for (const double sigma : {0.1, 0.025, 0.002}) {
    Rows rows(3, 1, 2, 1.0);
    const double far = std::fmax(40, 1 / sigma);
    rows.logits = {far, 0, -far, 0, 0, 0};
    rows.time_bin = {0, 0, 1};
    rows.cause = {0, 1, 0};
    rows.weights = {1, 1, 1};
    std::vector<double> tiled(rows.logits.size()), steep = tiled;
    tiled_loss(rows, 0.2, sigma, true, tiled.data());
    steep_loss(rows, 0.2, sigma, steep.data());
    CHECK(std::fabs(tiled[0] - 0.2 / 3) < 1e-14 && std::fabs(steep[0] - 0.2 / 3) < 1e-14);
    for (std::size_t i = 0; i < tiled.size(); ++i) {
      CHECK(std::fabs(tiled[i] - steep[i]) < 1e-13 * (1 + std::fabs(steep[i])));
    }
  }
}

// Rows without weight that are compared with no event: outside of the bins, in the first one, and before all events.
void test_unread_rows() {
  for (const bool ranked : {true, false}) {
    Rows rows(20, 2, 4, 1.0);
    for (int64_t& bin : rows.time_bin) bin = bin < 2 ? 2 : bin;
    std::vector<double> expected(rows.logits.size()), tiled = expected, steep = expected;
    const auto leave_out = [&](int64_t row, int64_t bin, int32_t cause) {
      rows.time_bin[row] = bin;
      rows.cause[row] = cause;
      rows.weights[row] = 0;
    };
    leave_out(3, -1, 1);
    leave_out(7, 0, 1);
    leave_out(16, 1, 0);
    const double alpha = ranked ? 0.2 : 1.0;
    const double loss = tiled_loss(rows, alpha, 0.1, true, expected.data());
    for (const int64_t row : {3, 7, 16}) std::fill_n(&rows.logits[row * 8], 8, nan_value);
    CHECK(std::fabs(steep_loss(rows, alpha, 0.1, steep.data()) / loss - 1) < 1e-13);
    CHECK(tiled_loss(rows, alpha, 0.1, true, tiled.data()) == loss);
    CHECK(tiled == expected);
    for (std::size_t i = 0; i < steep.size(); ++i) CHECK(std::fabs(steep[i] - expected[i]) < 1e-13);
    for (const int64_t row : {3, 7, 16}) {
      for (int64_t i = row * 8; i < row * 8 + 8; ++i) CHECK(tiled[i] == 0 && steep[i] == 0);
    }
  }
}

}  // namespace

int main() {
  test_rows();
  test_exp_within();
  test_exact_row();
  test_losses_and_gradients();
  test_steep_ranking();
  test_far_logits();
  test_certain_and_censored_there();
  test_unread_rows();
  return failures();
}
