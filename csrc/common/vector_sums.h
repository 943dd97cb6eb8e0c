// Sums over short rows in vectors of a chosen width, added up as a tree: compilers add the lanes one after the other,
// which takes longer than a row of 32 entries.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/dispatch.h"

namespace survcore {

template <int bytes, class Real>
SURVCORE_INLINE Real sum_of_lanes(const Real* lanes) {
  constexpr int64_t count = bytes / sizeof(Real);
  if constexpr (bytes <= 16) {
    Real sum = lanes[0];
    for (int64_t i = 1; i < count; ++i) sum += lanes[i];
    return sum;
  } else {
    typedef Real Half __attribute__((vector_size(bytes / 2), aligned(alignof(Real)), may_alias));
    Half half;
    half = *reinterpret_cast<const Half*>(lanes) + *reinterpret_cast<const Half*>(lanes + count / 2);
    return sum_of_lanes<bytes / 2, Real>(reinterpret_cast<const Real*>(&half));
  }
}

// sum of term(i) over [0, count), where term gives a vector for a vector of entries and a number for one.
template <int bytes, class Real, class Term>
SURVCORE_INLINE Real vector_sum(int64_t count, const Term& term) {
  typedef Real Vector __attribute__((vector_size(bytes)));
  constexpr int64_t lanes = bytes / sizeof(Real);
  Vector sums = {};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) term(i, sums);
  Real sum = sum_of_lanes<bytes, Real>(reinterpret_cast<const Real*>(&sums));
  for (; i < count; ++i) term(i, sum);
  return sum;
}

// Entries i, i + 1, ... of a row, as many as `entries` has.
template <class Entries, class Real>
SURVCORE_INLINE void load_entries(const Real* row, int64_t i, Entries& entries) {
  std::memcpy(&entries, row + i, sizeof(entries));
}

}  // namespace survcore
