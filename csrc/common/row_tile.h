// Sixteen rows of a row-major matrix, turned so that one vector holds the same column of all of them.
//
// Survival heads have few columns (4 to 30 bins): vectorising along a row would leave most lanes empty, so kernels put
// one row in each lane. The turn is done in 4 x 4 blocks, half an instruction per element.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/dispatch.h"

#if defined(__has_builtin)
#define SURVCORE_HAS_SHUFFLE __has_builtin(__builtin_shufflevector)
#else
#define SURVCORE_HAS_SHUFFLE 0
#endif

namespace survcore {

template <class Real>
struct RowTile {
  static constexpr int lanes = 16;
  static constexpr int capacity = 64;  // columns held at once

  alignas(64) Real values[capacity][lanes];

  // Fill columns [0, columns) from `rows` rows at `source`, `stride` elements apart; lanes without a row become 0.
  SURVCORE_INLINE void load(const Real* source, int64_t stride, int rows, int columns) {
    if (rows == lanes) {
      int column = 0;
      for (; column + 4 <= columns; column += 4) {
#pragma GCC unroll 1
        for (int row = 0; row < lanes; row += 4)
          turn(source + row * stride + column, stride, &values[column][row], lanes);
      }
      for (; column < columns; ++column) {
        for (int row = 0; row < lanes; ++row) values[column][row] = source[row * stride + column];
      }
      return;
    }
    for (int column = 0; column < columns; ++column) {
      for (int row = 0; row < lanes; ++row) values[column][row] = row < rows ? source[row * stride + column] : Real(0);
    }
  }

  // Ask for `rows` rows of `columns` columns ahead of their use. Row-wise access is too short for the hardware's own
  // guesses.
  static SURVCORE_INLINE void prefetch(const Real* source, int64_t stride, int columns) {
    constexpr int line = 64 / sizeof(Real);
    if (columns == stride) {  // the rows follow each other
      for (int64_t i = 0; i < lanes * stride; i += line) __builtin_prefetch(source + i);
    } else {
      for (int row = 0; row < lanes; ++row) {
        for (int column = 0; column < columns; column += line) __builtin_prefetch(source + row * stride + column);
      }
    }
  }

  // Write columns [0, columns) to `rows` rows at `destination`.
  SURVCORE_INLINE void store(Real* destination, int64_t stride, int rows, int columns) const {
    int column = 0;
    if (rows == lanes) {
      for (; column + 4 <= columns; column += 4) {
        for (int row = 0; row < lanes; row += 4)
          turn(&values[column][row], lanes, destination + row * stride + column, stride);
      }
    }
    for (; column < columns; ++column) {
      for (int row = 0; row < rows; ++row) destination[row * stride + column] = values[column][row];
    }
  }

 private:
  // destination[j][i] = source[i][j] for a 4 x 4 block.
  static SURVCORE_INLINE void turn(const Real* source, int64_t source_stride, Real* destination,
                                   int64_t destination_stride) {
#if SURVCORE_HAS_SHUFFLE
    typedef Real Four __attribute__((vector_size(4 * sizeof(Real))));
    Four a, b, c, d;
    std::memcpy(&a, source, sizeof(Four));
    std::memcpy(&b, source + source_stride, sizeof(Four));
    std::memcpy(&c, source + 2 * source_stride, sizeof(Four));
    std::memcpy(&d, source + 3 * source_stride, sizeof(Four));
    const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const Four turned[4] = {
        __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5), __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
        __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5), __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
    for (int j = 0; j < 4; ++j) std::memcpy(destination + j * destination_stride, &turned[j], sizeof(Four));
#else
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) destination[j * destination_stride + i] = source[i * source_stride + j];
    }
#endif
  }
};

}  // namespace survcore
