// How much weight the inserted rows of a smaller rank than a given one hold, those of the same, and those of a larger.
//
// Every row has a leaf of its own in a tree of sums, so that a row that is taken out leaves no rounding behind, neither
// among the rows of its rank nor elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sum_tree.h"

namespace survcore::metrics {

class WeightSet {
 public:
  // For `size` rows in all. A rank is the position of its first row among the sorted rows: rows of equal value share
  // the rank and own the leaves from there on.
  explicit WeightSet(std::size_t size) : used_(size, 0), tree_(size) {}

  // Returns the row's leaf, by which it is taken out again.
  std::uint32_t insert(std::uint32_t rank, double weight) {
    const std::uint32_t leaf = rank + used_[rank]++;
    tree_.set(leaf, weight);
    return leaf;
  }

  void remove(std::uint32_t leaf) { tree_.set(leaf, 0.0); }

  Around<double> around(std::uint32_t rank) const {
    const std::uint32_t used = used_[rank];
    return tree_.around(rank, used > 1 ? rank + used - 1 : rank);
  }

 private:
  std::vector<std::uint32_t> used_;  // leaves of each rank
  SumTree tree_;
};

}  // namespace survcore::metrics
