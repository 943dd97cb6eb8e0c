// How much weight the inserted rows of a smaller rank than a given one hold, those of the same, and those of a larger.
//
// An 8-ary tree of sums. A change computes one node per level anew from its children, and a query adds up the children
// on either side: nothing is obtained by subtraction, so that what is empty weighs exactly 0 and no rounding is left
// behind by rows that went.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "rank_set.h"

namespace survcore::metrics {

class WeightSet {
 public:
  // For ranks below `size`.
  explicit WeightSet(std::size_t size) : rows_(size, 0) {
    std::size_t nodes = size;
    do {
      nodes = (nodes + 7) / 8;
      levels_.emplace_back(nodes);
    } while (nodes > 1);
  }

  void insert(std::uint32_t rank, double weight) {
    ++rows_[rank];
    set(rank, leaf(rank) + weight);
  }

  // Takes a row out again that was inserted with this rank and weight.
  void remove(std::uint32_t rank, double weight) { set(rank, --rows_[rank] == 0 ? 0.0 : leaf(rank) - weight); }

  Around<double> around(std::uint32_t rank) const {
    Around<double> sums{0.0, leaf(rank), 0.0};
    std::uint32_t index = rank;
    for (const auto& level : levels_) {
      const std::uint32_t child = index % 8;
      index /= 8;
      const Sums& node = level[index];
      sums.smaller += sum(node * before[child]);
      sums.larger += sum(node * after[child]);
    }
    return sums;
  }

 private:
  typedef double Sums __attribute__((vector_size(64)));

  using Masks = std::array<Sums, 8>;

  // Row d: 1 for the children before child d, or after it.
  static Masks masks(bool front) {
    Masks rows{};
    for (int digit = 0; digit < 8; ++digit) {
      for (int child = 0; child < 8; ++child) rows[digit][child] = front ? child < digit : child > digit;
    }
    return rows;
  }
  static inline const Masks before = masks(true);
  static inline const Masks after = masks(false);

  double leaf(std::uint32_t rank) const { return levels_.front()[rank / 8][rank % 8]; }

  void set(std::uint32_t rank, double value) {
    std::uint32_t index = rank;
    for (auto& level : levels_) {
      const std::uint32_t child = index % 8;
      index /= 8;
      level[index][child] = value;
      value = sum(level[index]);
    }
  }

  static double sum(const Sums& values) {
    return ((values[0] + values[1]) + (values[2] + values[3])) + ((values[4] + values[5]) + (values[6] + values[7]));
  }

  std::vector<std::uint32_t> rows_;
  std::vector<std::vector<Sums>> levels_;
};

}  // namespace survcore::metrics
