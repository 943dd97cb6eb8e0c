// The backward pass of a loss whose forward pass has found the gradient: what is left is the chain rule's factor.
#pragma once

#include <cstdint>

#include "common/parallel.h"
#include "common/tensors.h"

namespace survcore {

// grad_loss, one number, times gradient, in the gradient's type and shape; at most three dimensions.
inline Tensor scaled_gradient(const Tensor& grad_loss, const Tensor& gradient) {
  const ScalarType type = gradient.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Double || type == ScalarType::Float, "gradient must be float32 or float64");
  check_device("grad_loss", grad_loss, "gradient", gradient);
  STD_TORCH_CHECK(grad_loss.numel() == 1, "grad_loss must be a scalar");
  const Tensor upstream = contiguous_as(grad_loss, type);
  const Tensor values = contiguous_as(gradient, type);
  Tensor result = values.dim() == 3   ? empty_on(values, {values.size(0), values.size(1), values.size(2)}, type)
                  : values.dim() == 2 ? empty_on(values, {values.size(0), values.size(1)}, type)
                                      : empty_on(values, {values.numel()}, type);
  const auto scale = [&](auto real) {
    using Real = decltype(real);
    const Real factor = *static_cast<const Real*>(upstream.const_data_ptr());
    const Real* from = static_cast<const Real*>(values.const_data_ptr());
    Real* to = static_cast<Real*>(result.mutable_data_ptr());
    for_each_chunk(values.numel(), 1 << 15, 1, [&](int64_t, int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) to[i] = factor * from[i];
    });
  };
  if (type == ScalarType::Double) {
    scale(double());
  } else {
    scale(float());
  }
  return result;
}

}  // namespace survcore
