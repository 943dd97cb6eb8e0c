// core/denoiser_layout.h: nothing overlaps, everything stands on a cache line, and the counts agree.
#include <algorithm>
#include <initializer_list>
#include <vector>

#include "core/denoiser_layout.h"
#include "tests/check.h"

using namespace survcore;

namespace {

struct Range {
  int64_t start, bytes;
};

int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// What a pack must hold, from the sizes of the matrices alone; also counts the weights.
std::vector<Range> ranges_of(const DenoiserLayout& layout, int64_t& weights) {
  const int64_t width = layout.width;
  std::vector<Range> ranges = {{0, sizeof(DenoiserHeader)}};
  weights = 0;
  const auto vector = [&](int64_t start, int64_t entries) {
    ranges.push_back({start, rounded_up(entries, 32) * (layout.type == PackType::float64 ? 8 : 4)});
    weights += entries;
  };
  const auto matrix = [&](int64_t start, int64_t depth, int64_t columns) {
    const bool halves = layout.type == PackType::bfloat16;
    const int64_t weight_bytes = halves ? 2 : layout.type == PackType::float64 ? 8 : 4;
    ranges.push_back({start, rounded_up(columns, 32) * (halves ? rounded_up(depth, 32) : depth) * weight_bytes});
    weights += depth * columns;
  };
  for (int64_t index = 0; index < layout.layers; ++index) {
    const int64_t start = layout.layer_start(index);
    const DenoiserLayout::Layer& layer = layout.layer;
    for (const int64_t offset : {layer.attention_norm_weight, layer.attention_norm_bias, layer.mlp_norm_weight,
                                 layer.mlp_norm_bias, layer.projection_bias, layer.contract_bias}) {
      vector(start + offset, width);
    }
    for (int64_t part = 0; part < layout.parts; ++part) {
      vector(start + layer.query_key_value_bias[part], 3 * width / layout.parts);
      vector(start + layer.expand_bias[part], 4 * width / layout.parts);
      matrix(start + layer.query_key_value[part], width, 3 * width / layout.parts);
      matrix(start + layer.projection[part], width / layout.parts, width);
      matrix(start + layer.expand[part], width, 4 * width / layout.parts);
      matrix(start + layer.contract[part], 4 * width / layout.parts, width);
    }
  }
  for (const int64_t offset : {layout.last.norm_weight, layout.last.norm_bias, layout.last.output_bias}) {
    vector(offset, width);
  }
  for (int64_t part = 0; part < layout.parts; ++part) matrix(layout.last.output[part], width / layout.parts, width);
  return ranges;
}

void test_ranges(const DenoiserLayout& layout) {
  int64_t weights = 0;
  std::vector<Range> ranges = ranges_of(layout, weights);
  CHECK(weights == denoiser_weight_count(layout.layers, layout.width));
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.start < b.start; });
  int64_t end = 0;
  for (const Range& range : ranges) {
    CHECK(range.start % 64 == 0);
    CHECK(range.start >= end);
    CHECK(range.start < end + 64);  // no more is left out than a cache line's rest
    end = range.start + range.bytes;
  }
  CHECK(rounded_up(end, 64) == layout.bytes);
}

// One part's matrices of a half layer stand together, in the order in which they are read.
void test_order(const DenoiserLayout& layout) {
  const DenoiserLayout::Layer& layer = layout.layer;
  for (int64_t part = 0; part < layout.parts; ++part) {
    CHECK(layer.query_key_value[part] < layer.projection[part]);
    CHECK(layer.expand[part] < layer.contract[part]);
    if (part > 0) {
      CHECK(layer.projection[part - 1] < layer.query_key_value[part]);
      CHECK(layer.contract[part - 1] < layer.expand[part]);
    }
  }
}

void test_parts() {
  const DenoiserLayout even(1, 24, 4, PackType::float32);
  CHECK(even.parts == 2 && even.part_width == 12 && even.hidden == 48);
  const DenoiserLayout odd(1, 21, 3, PackType::float32);
  CHECK(odd.parts == 1 && odd.part_width == 21 && odd.hidden == 84);
  const DenoiserLayout narrow(1, 2, 2, PackType::float32);  // heads of one column
  CHECK(narrow.parts == 2 && narrow.part_width == 1 && narrow.hidden == 4);
}

void test_stored_depth() {
  const DenoiserLayout halves(1, 33, 1, PackType::bfloat16);
  CHECK(halves.stored_depth(33) == 64 && halves.stored_depth(32) == 32 && halves.stored_depth(1) == 32);
  CHECK(halves.weight_bytes() == 2 && halves.real_bytes() == 4);
  const DenoiserLayout wide(1, 33, 1, PackType::float64);
  CHECK(wide.stored_depth(33) == 33 && wide.weight_bytes() == 8 && wide.real_bytes() == 8);
  CHECK(DenoiserLayout(1, 33, 1, PackType::float32).stored_depth(33) == 33);
  CHECK(DenoiserLayout::padded(0) == 0 && DenoiserLayout::padded(1) == 32 && DenoiserLayout::padded(32) == 32);
}

}  // namespace

int main() {
  for (const PackType type : {PackType::float32, PackType::float64, PackType::bfloat16}) {
    for (const int64_t layers : {1, 3}) {
      for (const int64_t heads : {1, 2, 3, 4, 6}) {
        for (const int64_t head_width : {1, 7, 8, 32, 33}) {
          const DenoiserLayout layout(layers, heads * head_width, heads, type);
          test_ranges(layout);
          test_order(layout);
        }
      }
    }
  }
  test_parts();
  test_stored_depth();
  return failures();
}
