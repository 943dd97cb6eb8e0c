#include "auc.h"

#include <algorithm>
#include <vector>

#include "common/dispatch.h"
#include "order.h"

namespace survcore::metrics {

namespace {

struct Rows {
  const double* risk;
  const std::uint64_t* order;
  std::size_t count;
  const std::int64_t* place;
  const double* weight;
  std::size_t times;
};

// controls: [times], the controls met so far, all of lower risk.
SURVCORE_INLINE void add_case(const Rows& rows, std::uint32_t row, double factor, const double* __restrict__ controls,
                              double* __restrict__ sums) {
  const double weight = rows.weight[row] * factor;
  if (weight == 0) return;
  for (auto j = static_cast<std::size_t>(rows.place[row]); j < rows.times; ++j) sums[j] += weight * controls[j];
}

SURVCORE_INLINE void add_control(const Rows& rows, std::uint32_t row, double* __restrict__ controls) {
  const auto place = static_cast<std::size_t>(rows.place[row]);
  for (std::size_t j = 0; j < place; ++j) controls[j] += 1;
}

// A tied control counts half: the cases of one risk are added before its controls have entered and again afterwards.
SURVCORE_INLINE void sums_of(const Rows& rows, double* controls, double* sums) {
  const std::uint64_t* order = rows.order;
  for (std::size_t first = 0, last; first < rows.count; first = last) {
    for (last = first + 1; last < rows.count && same_value(rows.risk, order[first], order[last]); ++last) {
    }
    if (last == first + 1) {
      add_case(rows, row_of(order[first]), 2, controls, sums);
      add_control(rows, row_of(order[first]), controls);
      continue;
    }
    for (std::size_t i = first; i < last; ++i) add_case(rows, row_of(order[i]), 1, controls, sums);
    for (std::size_t i = first; i < last; ++i) add_control(rows, row_of(order[i]), controls);
    for (std::size_t i = first; i < last; ++i) add_case(rows, row_of(order[i]), 1, controls, sums);
  }
}

SURVCORE_TARGET_64 void run(VectorWidth<64>, const Rows& rows, double* controls, double* sums) {
  sums_of(rows, controls, sums);
}

SURVCORE_TARGET_32 void run(VectorWidth<32>, const Rows& rows, double* controls, double* sums) {
  sums_of(rows, controls, sums);
}

SURVCORE_TARGET_16 void run(VectorWidth<16>, const Rows& rows, double* controls, double* sums) {
  sums_of(rows, controls, sums);
}

}  // namespace

void auc_sums(const double* risk, const std::uint64_t* order, std::size_t count, const std::int64_t* place,
              const double* weight, std::size_t times, double* sums) {
  std::fill_n(sums, times, 0.0);
  std::vector<double> controls(times, 0.0);
  const Rows rows{risk, order, count, place, weight, times};
  with_vector_width([&](auto width) { run(width, rows, controls.data(), sums); });
}

}  // namespace survcore::metrics
