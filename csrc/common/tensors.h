// Small conveniences over the stable tensor.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <initializer_list>

#include "common/huge_pages.h"

namespace survcore {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The type in which an op computes and reduces: float64 stays, everything else is float32.
inline ScalarType compute_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline bool is_floating(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

// The tensor itself where it already is contiguous and of that type, else a copy.
inline Tensor contiguous_as(const Tensor& tensor, ScalarType type) {
  const Tensor typed = tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
  return typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
}

// Throws unless `tensor`, an argument called `name`, is on the device of `expected`, the one called `expected_name`.
inline void check_device(const char* name, const Tensor& tensor, const char* expected_name, const Tensor& expected) {
  STD_TORCH_CHECK(tensor.device() == expected.device(), name, " must be on the device of ", expected_name);
}

// Uninitialised contiguous tensor on the device of `like`; large ones on the CPU ask for huge pages. Made through
// torch's C interface: the dispatcher would take longer than a small kernel.
inline Tensor empty_on(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  int64_t strides[8] = {};
  int64_t stride = 1;
  for (std::size_t dim = sizes.size(); dim-- > 0;) {
    strides[dim] = stride;
    stride *= std::max<int64_t>(1, sizes.begin()[dim]);  // as torch does for a tensor without elements
  }
  int32_t device_type = 0;
  int32_t device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  const int32_t type_code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides, type_code,
                                                  device_type, device_index, &handle));
  Tensor result(handle);
  if (like.is_cpu()) ask_for_huge_pages(result.mutable_data_ptr(), result.numel() * result.element_size());
  return result;
}

}  // namespace survcore
