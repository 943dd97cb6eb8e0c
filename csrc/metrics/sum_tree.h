// Sums over ranges of leaves whose values change.
//
// An 8-ary tree of sums. A change computes one node per level anew from its children, and a query adds up the children
// on either side: nothing is obtained by subtraction, so that what is empty weighs exactly 0, and a light leaf keeps
// its digits however heavy those were that went.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "rank_set.h"

namespace survcore::metrics {

class SumTree {
 public:
  // `size` leaves, all 0.
  explicit SumTree(std::size_t size) {
    std::size_t nodes = size;
    do {
      nodes = (nodes + 7) / 8;
      levels_.emplace_back(nodes);
    } while (nodes > 1);
  }

  void set(std::uint32_t leaf, double value) {
    std::uint32_t index = leaf;
    for (auto& level : levels_) {
      const std::uint32_t child = index % 8;
      index /= 8;
      level[index][child] = value;
      value = sum(level[index]);
    }
  }

  double total() const { return levels_.back().empty() ? 0.0 : sum(levels_.back().front()); }

  // Sums of the leaves before `first`, from there to `last`, and after it.
  Around<double> around(std::uint32_t first, std::uint32_t last) const {
    Around<double> sums{0.0, at(first), 0.0};
    bool apart = first != last;  // whether the two paths to the root have yet to meet
    if (apart) sums.same += at(last);
    for (const auto& level : levels_) {
      const Sums& after_first = after[first % 8];
      const Sums& before_last = before[last % 8];
      const Sums& before_first = before[first % 8];
      const Sums& after_last = after[last % 8];
      first /= 8;
      last /= 8;
      sums.smaller += sum(level[first] * before_first);
      sums.larger += sum(level[last] * after_last);
      if (!apart) continue;
      apart = first != last;
      sums.same += apart ? sum(level[first] * after_first) + sum(level[last] * before_last)
                         : sum(level[first] * after_first * before_last);
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

  double at(std::uint32_t leaf) const { return levels_.front()[leaf / 8][leaf % 8]; }

  static double sum(const Sums& values) {
    return ((values[0] + values[1]) + (values[2] + values[3])) + ((values[4] + values[5]) + (values[6] + values[7]));
  }

  std::vector<std::vector<Sums>> levels_;
};

}  // namespace survcore::metrics
