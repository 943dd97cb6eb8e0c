// Masked matrices in groups: which entries of [views, rows, columns] count, where the columns belong to modalities, and
// how many of each (view, modality) there are.
//
// The marks are small beside the values, so they are walked twice: once to count, so that what is averaged over is
// known before the first value is read, and once with the values. Work is cut into chunks of rows of one view.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/tensors.h"

namespace survcore {

enum class Positions { masked, visible, all };

inline Positions positions_of(const std::string& name) {
  STD_TORCH_CHECK(name == "masked" || name == "visible" || name == "all",
                  "positions must be 'masked', 'visible' or 'all', got '", name, "'");
  return name == "masked" ? Positions::masked : name == "visible" ? Positions::visible : Positions::all;
}

// One mark per entry: bytes of which any but 0 is set, or bits, eight columns to a byte, the lowest first, rows filled
// up to whole bytes. One matrix [rows, columns] serves all views. Without a tensor there are no marks.
struct Marks {
  Tensor owner;
  const uint8_t* data = nullptr;
  bool given = false;
  int64_t columns = 0;
  int64_t row_bytes = 0;
  int64_t view_bytes = 0;  // 0: the same for all views
  bool packed = false;

  Marks(const char* name, const Tensor& tensor, int64_t views, int64_t rows, int64_t columns_) : columns(columns_) {
    if (tensor.dim() == 1 && tensor.numel() == 0) return;
    const ScalarType type = tensor.scalar_type();
    owner = contiguous_as(tensor, type == ScalarType::Byte ? type : ScalarType::Bool);
    const int64_t dims = owner.dim();
    STD_TORCH_CHECK((dims == 2 || (dims == 3 && owner.size(0) == views)) && owner.size(dims - 2) == rows, name,
                    " must have the rows of the values, for each view or once for all");
    row_bytes = owner.size(dims - 1);
    packed = type == ScalarType::Byte && row_bytes != columns && row_bytes == (columns + 7) / 8;
    STD_TORCH_CHECK(packed || row_bytes == columns, name, " must have the columns of the values");
    view_bytes = dims == 3 ? rows * row_bytes : 0;
    data = static_cast<const uint8_t*>(owner.const_data_ptr());
    given = true;
  }

  explicit operator bool() const { return given; }

  // The bytes of a row; bits are spread into `buffer`, of columns + 7 bytes.
  SURVCORE_INLINE const uint8_t* row(int64_t view, int64_t row, uint8_t* buffer) const {
    const uint8_t* marks = data + view * view_bytes + row * row_bytes;
    if (!packed) return marks;
    for (int64_t i = 0; i < row_bytes; ++i) {
      // Bit j of the byte, left where it is, in byte j of the word (little-endian).
      const uint64_t spread = (marks[i] * uint64_t(0x0101010101010101)) & uint64_t(0x8040201008040201);
      std::memcpy(buffer + 8 * i, &spread, 8);
    }
    return buffer;
  }
};

// How many of `count` bytes are set.
SURVCORE_INLINE int64_t count_set(const uint8_t* bytes, int64_t count) {
  constexpr int64_t lanes = 64;
  int64_t total = 0;
  int64_t i = 0;
  while (i + lanes <= count) {
    uint8_t sums[lanes] = {};
    const int64_t end = std::min(count - lanes, i + 254 * lanes);  // a sum stays below 256
    for (; i <= end; i += lanes) {
#pragma omp simd
      for (int64_t lane = 0; lane < lanes; ++lane)
        sums[lane] = static_cast<uint8_t>(sums[lane] + (bytes[i + lane] != 0));
    }
    int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t lane = 0; lane < lanes; ++lane) sum += sums[lane];
    total += sum;
  }
  for (; i < count; ++i) total += bytes[i] != 0;
  return total;
}

// Space for the marks of one row; a chunk has its own.
struct MarkBuffers {
  std::vector<uint8_t> bytes;
  int64_t stride;
  explicit MarkBuffers(int64_t columns) : bytes(4 * (columns + 64), 1), stride(columns + 64) {}

  uint8_t* mask() { return bytes.data(); }
  uint8_t* observed() { return bytes.data() + stride; }
  uint8_t* counted() { return bytes.data() + 2 * stride; }
  uint8_t* target() { return bytes.data() + 3 * stride; }
};

struct MaskedGroups {
  int64_t views;
  int64_t rows;
  int64_t columns;
  std::vector<int64_t> boundaries;  // modality m has the columns from boundaries[m] on, up to boundaries[m + 1]
  Positions positions;
  Marks mask;
  Marks observed;

  MaskedGroups(int64_t views_, int64_t rows_, int64_t columns_, const Tensor& boundaries_,
               const std::string& positions_name, const Tensor& mask_, const Tensor& observed_)
      : views(views_),
        rows(rows_),
        columns(columns_),
        boundaries{0, columns_},
        positions(positions_of(positions_name)),
        mask("mask", mask_, views_, rows_, columns_),
        observed("observed", observed_, views_, rows_, columns_) {
    STD_TORCH_CHECK(mask || positions == Positions::all, "mask may be left out for positions 'all' only");
    if (boundaries_.numel() == 0) return;
    const Tensor values = contiguous_as(boundaries_, ScalarType::Long);
    const int64_t* first = static_cast<const int64_t*>(values.const_data_ptr());
    boundaries.assign(first, first + values.numel());
    STD_TORCH_CHECK(boundaries.size() > 1 && boundaries.front() == 0 && boundaries.back() == columns &&
                        std::is_sorted(boundaries.begin(), boundaries.end()),
                    "boundaries must rise from 0 to the number of columns");
  }

  int64_t modalities() const { return static_cast<int64_t>(boundaries.size()) - 1; }

  // One byte per column of a row, set where the entry counts.
  SURVCORE_INLINE const uint8_t* counted(int64_t view, int64_t row, MarkBuffers& buffers) const {
    uint8_t* counted = buffers.counted();
    const uint8_t* seen = observed ? observed.row(view, row, buffers.observed()) : nullptr;
    if (positions == Positions::all) return seen ? seen : counted;  // as the buffer was made: all set
    const uint8_t* hidden = mask.row(view, row, buffers.mask());
    if (positions == Positions::masked && !seen) return hidden;
    const uint8_t flip = positions == Positions::visible ? 1 : 0;
    if (seen) {
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) {
        counted[i] = static_cast<uint8_t>(((hidden[i] != 0) ^ flip) & (seen[i] != 0));
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) counted[i] = hidden[i] == 0;
    }
    return counted;
  }

  // Adds the entries of rows [first, last) of a view that count to counts[m].
  SURVCORE_INLINE void count_rows(int64_t view, int64_t first, int64_t last, int64_t* counts) const {
    MarkBuffers buffers(columns);
    for (int64_t row = first; row < last; ++row) {
      const uint8_t* marks = counted(view, row, buffers);
      for (int64_t m = 0; m < modalities(); ++m) {
        counts[m] += count_set(marks + boundaries[m], boundaries[m + 1] - boundaries[m]);
      }
    }
  }

  // Calls body(chunk, view, first, last) for fixed chunks of rows; an entry costs `work`. Chunks of a view follow each
  // other, chunks_of_view() many.
  template <class Body>
  void for_each_chunk_of_rows(int64_t work, const Body& body) const {
    const int64_t size = chunk_rows(work), of_view = chunks_of_view(work);
    for_each_chunk(views * of_view, 1, size * columns * work, [&](int64_t chunk, int64_t, int64_t) {
      const int64_t first = chunk % of_view * size;
      body(chunk, chunk / of_view, first, std::min(rows, first + size));
    });
  }

  int64_t chunk_rows(int64_t work) const {
    constexpr int64_t chunk_elements = 1 << 15;
    return std::max<int64_t>(1, chunk_elements / std::max<int64_t>(1, columns * work));
  }
  int64_t chunks_of_view(int64_t work) const { return (rows + chunk_rows(work) - 1) / chunk_rows(work); }

  // How many entries of each view and modality count, [views * modalities].
  std::vector<int64_t> counts() const;
};

#define SURVCORE_COUNT_KERNEL(bytes)                                                                            \
  SURVCORE_TARGET_##bytes inline void count_chunk(VectorWidth<bytes>, const MaskedGroups& groups, int64_t view, \
                                                  int64_t first, int64_t last, int64_t* counts) {               \
    groups.count_rows(view, first, last, counts);                                                               \
  }
SURVCORE_COUNT_KERNEL(64)
SURVCORE_COUNT_KERNEL(32)
SURVCORE_COUNT_KERNEL(16)
#undef SURVCORE_COUNT_KERNEL

inline std::vector<int64_t> MaskedGroups::counts() const {
  const int64_t groups = views * modalities();
  std::vector<int64_t> result(groups);
  if (positions == Positions::all && !observed) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t m = g % modalities();
      result[g] = rows * (boundaries[m + 1] - boundaries[m]);
    }
    return result;
  }
  std::vector<int64_t> partial(views * chunks_of_view(1) * modalities());
  for_each_chunk_of_rows(1, [&](int64_t chunk, int64_t view, int64_t first, int64_t last) {
    with_vector_width(
        [&](auto width) { count_chunk(width, *this, view, first, last, &partial[chunk * modalities()]); });
  });
  for (int64_t chunk = 0; chunk < views * chunks_of_view(1); ++chunk) {
    for (int64_t m = 0; m < modalities(); ++m) {
      result[chunk / chunks_of_view(1) * modalities() + m] += partial[chunk * modalities() + m];
    }
  }
  return result;
}

}  // namespace survcore
