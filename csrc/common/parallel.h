// Data-parallel loops over rows, and reductions whose result does not depend on the number of threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace survcore {

// Calls body(chunk, begin, end) for fixed chunks of [0, rows), on as many threads as torch grants. Chunks do not depend
// on the number of threads, so partial results per chunk, added in order, are the same for any. `work` is the cost of a
// row in elements: what is below about 64k elements per thread stays serial, since waking a second thread costs more.
template <class Body>
void for_each_chunk(int64_t rows, int64_t chunk_rows, int64_t work, const Body& body) {
  constexpr int64_t elements_per_thread = 1 << 16;
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  const int64_t grain = std::max<int64_t>(1, elements_per_thread / std::max<int64_t>(1, work * chunk_rows));
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      body(chunk, chunk * chunk_rows, std::min(rows, (chunk + 1) * chunk_rows));
    }
  };
  if (chunks <= grain) {
    run(0, chunks);
  } else {
    torch::stable::parallel_for(0, chunks, grain, run);
  }
}

}  // namespace survcore
