// CPU kernel of pack_denoiser: brings the weights of a denoiser into the order in which the sampling loop reads them.
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <string>
#include <vector>

#include "common/denoiser_pack.h"
#include "common/denoiser_packer.h"
#include "common/dispatch.h"
#include "common/tensors.h"
#include "core/denoiser_layout.h"

namespace survcore {
namespace {

PackType type_named(const std::string& name) {
  if (name == "float32") return PackType::float32;
  if (name == "float64") return PackType::float64;
  STD_TORCH_CHECK(name == "bfloat16", "dtype must be float32, float64 or bfloat16, got ", name);
  return PackType::bfloat16;
}

InstructionSet instruction_set_named(const std::string& name, PackType type) {
  const InstructionSet best = best_instruction_set(type);
  if (name.empty()) return best;
  for (const InstructionSet set : instruction_sets) {
    if (name != name_of(set)) continue;
    STD_TORCH_CHECK(set <= best, "instruction_set ", name, " is not among those that this CPU has for this dtype; ",
                    "its best is ", name_of(best));
    return set;
  }
  STD_TORCH_CHECK(false, "instruction_set must be portable, avx2, avx512 or amx, got ", name);
}

// The weights behind the header of a flat pack, as Real.
template <class Real>
std::vector<Real> weights_of(const unsigned char* flat, const DenoiserHeader& header) {
  std::vector<Real> weights(denoiser_weight_count(header.layers, header.width));
  const auto read = [&](auto given) {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      std::memcpy(&given, flat + sizeof(header) + i * sizeof(given), sizeof(given));
      weights[i] = static_cast<Real>(given);
    }
  };
  if (header.type == static_cast<int64_t>(PackType::float64)) {
    read(double());
  } else {
    read(float());
  }
  return weights;
}

}  // namespace

Tensor pack_denoiser(const Tensor& flat, std::string dtype, std::string instruction_set) {
  STD_TORCH_CHECK(flat.scalar_type() == ScalarType::Byte, "a flat denoiser is uint8");
  const Tensor source = contiguous_as(flat, ScalarType::Byte);
  DenoiserHeader header = denoiser_header(source);
  STD_TORCH_CHECK(header.form == static_cast<int64_t>(PackForm::flat), "the denoiser is packed already");
  const DenoiserLayout layout(header.layers, header.width, header.heads, type_named(dtype));
  const InstructionSet set = instruction_set_named(instruction_set, layout.type);
  Tensor pack = empty_on(flat, {layout.bytes}, ScalarType::Byte);
  unsigned char* bytes = pack.mutable_data_ptr<uint8_t>();
  std::memset(bytes, 0, layout.bytes);
  if (layout.type == PackType::float64) {
    Packer<double>(layout, weights_of<double>(source.const_data_ptr<uint8_t>(), header).data(), bytes).pack();
  } else {
    Packer<float>(layout, weights_of<float>(source.const_data_ptr<uint8_t>(), header).data(), bytes).pack();
  }
  header.form = static_cast<int64_t>(PackForm::panels);
  header.type = static_cast<int64_t>(layout.type);
  header.instruction_set = static_cast<int64_t>(set);
  header.bytes = layout.bytes;
  std::memcpy(bytes, &header, sizeof(header));
  return pack;
}

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) { m.impl("pack_denoiser", TORCH_BOX(&pack_denoiser)); }

}  // namespace survcore
