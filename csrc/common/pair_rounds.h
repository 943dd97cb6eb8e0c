// The order in which several threads work on pairs of chunks without sharing any: in a round no chunk appears twice, so
// that what is summed per chunk needs neither locks nor copies, and is summed in the same order by any number of
// threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace survcore {

struct ChunkPair {
  int64_t rows;
  int64_t columns;
};

using Rounds = std::vector<std::vector<ChunkPair>>;

// Every chunk 0..count-1 with every chunk count..2 count-1.
inline Rounds rounds_between(int64_t count) {
  Rounds rounds(count);
  for (int64_t round = 0; round < count; ++round) {
    for (int64_t chunk = 0; chunk < count; ++chunk) rounds[round].push_back({chunk, count + (chunk + round) % count});
  }
  return rounds;
}

// Every chunk 0..count-1 with itself and, once, with every other one; count is even. Rounds after the first are those
// of a tournament: the last chunk stands still, the others move on by one place.
inline Rounds rounds_among(int64_t count) {
  Rounds rounds(count);
  for (int64_t chunk = 0; chunk < count; ++chunk) rounds[0].push_back({chunk, chunk});
  const int64_t moving = count - 1;
  for (int64_t round = 0; round < moving; ++round) {
    rounds[round + 1].push_back({round, moving});
    for (int64_t k = 1; k < count / 2; ++k) {
      const int64_t first = (round + k) % moving, second = (round + moving - k) % moving;
      rounds[round + 1].push_back({std::min(first, second), std::max(first, second)});
    }
  }
  return rounds;
}

}  // namespace survcore
