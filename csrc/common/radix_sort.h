// A stable sort of 64-bit words by their upper half, byte by byte, which two threads share.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/parallel.h"

namespace survcore {

constexpr int64_t sort_block_rows = 1 << 17;

// Calls body(block, first, last) for blocks of rows that two threads share.
template <class Body>
void for_each_block(int64_t rows, const Body& body) {
  for_each_chunk(rows, sort_block_rows, 1, body);
}

using Word = uint64_t;

// Words one after the other, with a line left free after every run of 8192: places at a distance of a power of two,
// which a sort of numbers without gaps writes to in turns, would compete for the same few lines of the cache.
struct Words {
  static constexpr int64_t run = 8192;
  Word* data;

  static int64_t place(int64_t i) { return i + i / run * 8; }
  static int64_t size(int64_t rows) { return place(rows) + 8; }
  Word& operator[](int64_t i) const { return data[place(i)]; }
};

// 256 places to write to stay in the fastest cache, and each fetches its next line before it is needed.
constexpr int digits = 256;
using Places = std::array<uint32_t, digits>;

// One pass of a stable sort, by one byte.
template <int byte>
void sort_by_byte(Words from, Words to, int64_t rows, std::vector<Places>& places) {
  const auto digit_of = [](Word word) { return static_cast<uint8_t>(word >> 8 * byte); };
  for_each_block(rows, [&](int64_t block, int64_t first, int64_t last) {
    Places counts = {};
    for (int64_t i = first; i < last; ++i) ++counts[digit_of(from[i])];
    places[block] = counts;
  });
  uint32_t place = 0;
  for (int digit = 0; digit < digits; ++digit) {
    for (Places& block : places) place += std::exchange(block[digit], place);
  }
  for_each_block(rows, [&](int64_t block, int64_t first, int64_t last) {
    Places next = places[block];
    for (int64_t i = first; i < last; ++i) {
      const Word word = from[i];
      Word* target = &to[next[digit_of(word)]++];
      *target = word;
      __builtin_prefetch(target + 8, 1);
    }
  });
}

// Stable sort by the lowest `bits` of the upper half of the words. The result may lie in either buffer.
inline void radix_sort(Words& words, Words& other, int64_t rows, int bits) {
  std::vector<Places> places((rows + sort_block_rows - 1) / sort_block_rows);
  constexpr void (*passes[])(Words, Words, int64_t, std::vector<Places>&) = {sort_by_byte<4>, sort_by_byte<5>,
                                                                             sort_by_byte<6>, sort_by_byte<7>};
  for (int pass = 0; 8 * pass < bits; ++pass) {
    passes[pass](words, other, rows, places);
    std::swap(words, other);
  }
}

}  // namespace survcore
