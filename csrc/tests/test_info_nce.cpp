// core/info_nce.h, common/packed_product.h, common/pair_rounds.h and the tiles of info_nce, against plain loops, in
// every instruction set of this CPU.
#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <vector>

#include "common/info_nce_kept.h"
#include "common/info_nce_pair.h"
#include "tests/check.h"

using namespace survcore;

namespace {

// Numbers in (-1, 1), the same in every run.
struct Numbers {
  uint64_t state = 12345;
  double next() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<double>(state >> 11) * 0x1p-52 - 1.0;
  }
};

bool close(double found, double expected, double tolerance) {
  return std::fabs(found - expected) <= tolerance * (1 + std::fabs(expected));
}

void test_sums_under_shifts() {
  const float infinity = std::numeric_limits<float>::infinity();
  const auto sum_of = [&](std::vector<std::vector<double>> parts) {
    float shift = -infinity;
    double sum = 0;
    for (const auto& part : parts) {
      float most = -infinity;
      for (const double value : part) most = std::max(most, static_cast<float>(value));
      double terms = 0;
      for (const double value : part) terms += exp_below(static_cast<float>(value), most);
      ShiftedSum<float>::add(shift, sum, most, terms);
    }
    return shift + std::log(sum);
  };
  CHECK(close(sum_of({{1, 2}, {3}}), std::log(std::exp(1) + std::exp(2) + std::exp(3)), 1e-6));
  CHECK(close(sum_of({{1000}, {-1000}, {1000}}), 1000 + std::log(2), 1e-7));
  CHECK(close(sum_of({{-1000}, {1000}, {-1000}}), 1000, 1e-7));
  CHECK(sum_of({{-infinity}, {3}, {-infinity}}) == 3);
  CHECK(sum_of({{-infinity, -infinity}}) == -infinity);
  CHECK(sum_of({{1}, {infinity, 2}, {3}}) == infinity);
  CHECK(std::isnan(sum_of({{1}, {std::nan("")}, {3}})));
  CHECK(sum_of({}) == -infinity);
}

void test_scalars() {
  for (const double x : {-700.0, -40.0, -1.0, 0.0, 1.0, 40.0, 700.0})
    CHECK(close(softplus(x), x > 30 ? x : std::log1p(std::exp(x)), 1e-15));
  CHECK(softplus(-std::numeric_limits<double>::infinity()) == 0);
  CHECK(std::isnan(softplus(std::nan(""))));
  for (const float x : {-80.0f, -1.0f, 0.0f, 1.0f, 79.0f}) CHECK(close(exp_of_either_sign(x) / std::exp(x), 1, 1e-5));
  CHECK(close(LogSum<float>(100.00000321).share(100.0f), std::exp(-3.21e-6), 1e-7));
  CHECK(close(inverse_length(25.0f), 0.2, 1e-7) && length_varies(inverse_length(25.0f)));
  CHECK(inverse_length(0.0f) == 1e12f && !length_varies(inverse_length(0.0f)));
  CHECK(std::isnan(inverse_length(std::nanf(""))));
}

void test_rounds() {
  for (int64_t count = 1; count <= 7; ++count) {
    for (const bool among : {false, true}) {
      std::set<std::pair<int64_t, int64_t>> seen;
      for (const auto& round : among ? rounds_among(2 * count) : rounds_between(count)) {
        std::set<int64_t> busy;
        for (const ChunkPair pair : round) {
          CHECK(pair.rows <= pair.columns);
          CHECK(busy.insert(pair.rows).second);
          CHECK(pair.rows == pair.columns || busy.insert(pair.columns).second);
          CHECK(seen.insert({pair.rows, pair.columns}).second);
        }
      }
      CHECK(static_cast<int64_t>(seen.size()) == (among ? count * (2 * count + 1) : count * count));
    }
  }
}

template <int bytes, class Real>
SURVCORE_INLINE void multiply_and_check(int64_t rows, int64_t depth, int64_t panels) {
  constexpr int64_t width = ProductBlock<bytes, Real>::columns;
  const int64_t columns = panels * width;
  Numbers numbers;
  const auto fill = [&](int64_t count) {  // of exactly that size, so that a sanitizer sees what is read beyond it
    std::unique_ptr<Real[]> values(new Real[count]);
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<Real>(numbers.next());
    return values;
  };
  const auto left = fill(rows * depth), right = fill(depth * columns), before = fill(rows * columns);
  std::vector<Real> set(rows * columns), added(before.get(), before.get() + rows * columns);
  const LeftPieces<Real> pieces{left.get(), depth, 1, 7, 7};
  const RightPanels<Real> panel_data{right.get(), depth * width};
  multiply_by_panels<bytes, false>(pieces, rows, panel_data, columns, depth, set.data(), columns);
  multiply_by_rows<bytes, true>(pieces, rows, panel_data, columns, depth, added.data(), columns);
  const double tolerance = sizeof(Real) == 4 ? 1e-5 : 1e-13;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k)
        sum += double(left[i * depth + k]) * right[j / width * depth * width + k * width + j % width];
      CHECK(close(set[i * columns + j], sum, tolerance));
      CHECK(close(added[i * columns + j], before[i * columns + j] + sum, tolerance));
    }
  }
}

// Sums and weighted entries of a whole problem, by tiles.
template <int bytes, class Real>
SURVCORE_INLINE void run_group(const InfoNceGroup<Real>& group, const InfoNceOptions& options, bool backward) {
  for (int64_t rank = 0; rank < options.share.ranks; ++rank) {
    InfoNceOptions part = options;
    part.share.rank = rank;
    const InfoNceChunks chunks(group.count, part.share);
    for (const auto& round : chunks.rounds(part.among)) {
      for (const ChunkPair pair : round) {
        if (backward) {
          backward_pair<bytes>(group, part, chunks, pair);
        } else {
          forward_pair<bytes>(group, part, chunks, pair);
        }
      }
    }
  }
}

// The same by stages, logits kept: losses per chunk, statistics, weighted entries before they are finished.
template <int bytes, class Real>
SURVCORE_INLINE void run_stages(InfoNceKept<Real>& kept, const InfoNceOptions& options) {
  for (const InfoNceStage stage : info_nce_stages) {
    for (int64_t chunk = kept.count_chunks(); chunk-- > 0;) {
      if (has_job(kept, stage, chunk)) do_job<bytes>(kept, options, stage, chunk);
    }
  }
}

// Every width of vectors, compiled for its instruction set.
#define SURVCORE_TEST_KERNELS(Real, bytes)                                                                            \
  SURVCORE_TARGET_##bytes void check_product(VectorWidth<bytes>, Real, int64_t rows, int64_t depth, int64_t panels) { \
    multiply_and_check<bytes, Real>(rows, depth, panels);                                                             \
  }                                                                                                                   \
  SURVCORE_TARGET_##bytes void run_kernel(VectorWidth<bytes>, const InfoNceGroup<Real>& group,                        \
                                          const InfoNceOptions& options, bool backward) {                             \
    run_group<bytes>(group, options, backward);                                                                       \
  }                                                                                                                   \
  SURVCORE_TARGET_##bytes void run_stages_kernel(VectorWidth<bytes>, InfoNceKept<Real>& kept,                         \
                                                 const InfoNceOptions& options) {                                     \
    run_stages<bytes>(kept, options);                                                                                 \
  }
SURVCORE_TEST_KERNELS(float, 64)
SURVCORE_TEST_KERNELS(float, 32)
SURVCORE_TEST_KERNELS(float, 16)
SURVCORE_TEST_KERNELS(double, 64)
SURVCORE_TEST_KERNELS(double, 32)
SURVCORE_TEST_KERNELS(double, 16)
#undef SURVCORE_TEST_KERNELS

// What the stages find, against sums of forward_pair and gradients by the definition, in memory that a sanitizer sees
// the end of.
template <class Real>
void test_stages(InstructionSet set, int64_t rows, const InfoNceGroup<Real>& group, const InfoNceOptions& options,
                 const std::vector<Real>& shift, const std::vector<double>& sum, const std::vector<Real>& own,
                 const std::vector<std::vector<double>>& by_row, double along_all, double tolerance) {
  const int64_t count = group.count, width = group.width;
  std::vector<Real> outputs(2 * rows * width), weighted(2 * count * group.weighted_stride, Real(77));
  std::vector<double> statistics(3 * rows, 77.0);
  Real* const gradients[2] = {outputs.data(), outputs.data() + rows * width};
  InfoNceKept<Real> kept(group, options.among, gradients, {statistics.data(), rows});
  Parts<Real> numbers{nullptr};
  Parts<double> sums{nullptr};
  kept.place(numbers, sums);
  std::unique_ptr<Real[]> memory(new Real[numbers.used]);
  std::unique_ptr<double[]> memory_of_sums(new double[sums.used]);
  numbers = {memory.get()};
  sums = {memory_of_sums.get()};
  kept.place(numbers, sums);
  std::vector<Real> own_again(count, -std::numeric_limits<Real>::infinity());
  kept.group.own = own_again.data();
  for (int64_t side = 0; side < 2; ++side)
    kept.group.weighted[side] = weighted.data() + side * count * group.weighted_stride;
  with_vector_width(set, [&](auto bytes) { run_stages_kernel(bytes, kept, options); });

  double loss = 0, loss_again = 0, along = 0;
  for (const double part : kept.losses) loss_again += part;
  for (const double part : kept.along) along += part;
  const double factor = 1 / (2 * count * options.temperature);
  for (int64_t i = 0; i < 2 * count; ++i) {
    const int64_t side = i >= count;
    const double others = shift[i] + std::log(sum[i]);
    loss += softplus(others - own[i % count]);
    const double found = statistics[side * rows + group.row_of(i)];
    CHECK(found == others || close(found, others, tolerance));
    CHECK(close(statistics[2 * rows + group.row_of(i)], own[i % count], tolerance));
    for (int64_t k = 0; k < width; ++k)
      CHECK(close(gradients[side][group.row_of(i) * width + k] / factor, by_row[i][k], 40 * tolerance));
  }
  CHECK(close(loss_again, loss, 10 * tolerance));
  CHECK(close(along / factor / count, along_all / count, 40 * tolerance));
}

// Rows of which every third is not valid and NaN, against the definition.
template <class Real>
void test_problem(InstructionSet set, int64_t rows, int64_t width, InfoNceOptions options, double spread) {
  Numbers numbers;
  std::unique_ptr<Real[]> sides[2];
  std::vector<int64_t> valid;
  for (int64_t row = 0; row < rows; ++row) {
    if (row % 3 != 1) valid.push_back(row);
  }
  const auto count = static_cast<int64_t>(valid.size());
  for (auto& side : sides) {
    side.reset(new Real[rows * width]);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < width; ++i)
        side[row * width + i] = row % 3 == 1 ? std::numeric_limits<Real>::quiet_NaN()
                                             : static_cast<Real>(numbers.next() * std::exp(spread * row / rows));
    }
  }
  const int64_t stride = round_up(width, 32);
  std::vector<Real> shift(2 * count, -std::numeric_limits<Real>::infinity()), own(count), weighted(2 * count * stride);
  std::vector<double> sum(2 * count), log_sum(2 * count);
  InfoNceGroup<Real> group{{sides[0].get(), sides[1].get()},
                           valid.data(),
                           count,
                           width,
                           shift.data(),
                           sum.data(),
                           own.data(),
                           log_sum.data(),
                           {weighted.data(), weighted.data() + count * stride},
                           stride};
  const auto unit = [&](int64_t entry) {
    std::vector<double> values(group.at(entry), group.at(entry) + width);
    double squared = 0;
    for (const double value : values) squared += value * value;
    for (double& value : values) value /= options.normalize ? std::sqrt(squared) : 1;
    return values;
  };
  std::vector<std::vector<double>> entries;
  for (int64_t entry = 0; entry < 2 * count; ++entry) entries.push_back(unit(entry));
  const auto logit = [&](int64_t i, int64_t j) {
    double result = 0;
    for (int64_t k = 0; k < width; ++k) result += entries[i][k] * entries[j][k];
    return result / options.temperature;
  };
  const auto compared = [&](int64_t i, int64_t j) { return options.among ? i != j : (i < count) != (j < count); };
  const double tolerance = (sizeof(Real) == 4 ? 2e-5 : 1e-12) * std::exp(spread);
  with_vector_width(set, [&](auto bytes) { run_kernel(bytes, group, options, false); });
  for (int64_t i = 0; i < 2 * count; ++i) {
    const int64_t partner = (i + count) % (2 * count);
    double most = -std::numeric_limits<double>::infinity(), others = 0;
    for (int64_t j = 0; j < 2 * count; ++j) {
      if (compared(i, j) && j != partner) most = std::max(most, logit(i, j));
    }
    for (int64_t j = 0; j < 2 * count; ++j) {
      if (compared(i, j) && j != partner) others += std::exp(logit(i, j) - most);
    }
    const double expected = most + std::log(others), found = shift[i] + std::log(sum[i]);
    CHECK(count == 1 ? found == -std::numeric_limits<double>::infinity() : close(found, expected, tolerance));
    CHECK(close(own[i % count], logit(i, partner), tolerance));
    log_sum[i] = own[i % count] + softplus(found - own[i % count]);
  }
  with_vector_width(set, [&](auto bytes) { run_kernel(bytes, group, options, true); });
  // Gradients of the unscaled rows, but for a common factor, from those of the entries.
  std::vector<std::vector<double>> by_row;
  double along_all = 0;
  for (int64_t i = 0; i < 2 * count; ++i) {
    std::vector<double> expected(width);
    double along = 0;
    for (int64_t j = 0; j < 2 * count; ++j) {
      if (!compared(i, j)) continue;
      const double s = logit(i, j);
      const double weight = std::exp(s - log_sum[i]) + std::exp(s - log_sum[j]) - 2 * (j == (i + count) % (2 * count));
      for (int64_t k = 0; k < width; ++k) expected[k] += weight * entries[j][k];
    }
    for (int64_t k = 0; k < width; ++k) {
      CHECK(close(group.weighted_at(i)[k], expected[k], 20 * tolerance));
      along += expected[k] * entries[i][k];
    }
    along_all += along;
    double squared = 0;
    for (int64_t k = 0; k < width; ++k) squared += double(group.at(i)[k]) * group.at(i)[k];
    for (int64_t k = 0; k < width && options.normalize; ++k)
      expected[k] = (expected[k] - along * entries[i][k]) / std::sqrt(squared);
    by_row.push_back(expected);
  }
  if (options.share.ranks == 1) test_stages(set, rows, group, options, shift, sum, own, by_row, along_all, tolerance);
}

}  // namespace

int main() {
  test_sums_under_shifts();
  test_scalars();
  test_rounds();
  for (const InstructionSet set : instruction_sets) {
    if (set > best_instruction_set()) continue;
    for (const int64_t rows : {1, 2, 5, 6, 7, 12, 15, 29}) {
      with_vector_width(set, [&](auto bytes) { check_product(bytes, float(), rows, 17, 2); });
      with_vector_width(set, [&](auto bytes) { check_product(bytes, double(), rows, 1, 3); });
    }
    for (const bool among : {false, true}) {
      for (const int64_t rows : {2, 3, 6, 50, 163}) {
        test_problem<float>(set, rows, 9, {among, true, 0.1, {0, 1}}, 0);
        test_problem<double>(set, rows, 33, {among, true, 0.01, {0, 1}}, 0);
      }
      test_problem<float>(set, 190, 5, {among, true, 0.2, {0, 3}}, 0);
      test_problem<double>(set, 160, 7, {among, false, 0.5, {0, 1}}, 4);
    }
  }
  for (const bool among : {false, true})
    test_problem<double>(best_instruction_set(), 780, 2, {among, true, 0.3, {0, 1}}, 0);  // several chunks
  return failures();
}
