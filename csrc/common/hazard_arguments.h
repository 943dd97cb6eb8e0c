// Arguments of discrete_hazard_nll as both kernels take them: options read once, tensors contiguous and in the compute
// type.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <string>

#include "common/event_codes.h"
#include "common/tensors.h"
#include "core/hazard.h"

namespace survcore {

enum class Reduction { none, sum, mean };

struct HazardOptions {
  HazardForm form;
  double alpha;  // censored rows count 1 - alpha
  Reduction reduction;

  HazardOptions(const std::string& censored, const std::string& form_name, double alpha_,
                const std::string& reduction_name)
      : form{censored == "start", form_name == "must_eq6"},
        alpha(alpha_),
        reduction(reduction_name == "none"  ? Reduction::none
                  : reduction_name == "sum" ? Reduction::sum
                                            : Reduction::mean) {
    STD_TORCH_CHECK(censored == "start" || censored == "end", "censored must be 'start' or 'end', got '", censored,
                    "'");
    STD_TORCH_CHECK(form_name == "likelihood" || form.event_bin_only, "form must be 'likelihood' or 'must_eq6', got '",
                    form_name, "'");
    STD_TORCH_CHECK(reduction_name == "mean" || reduction != Reduction::mean,
                    "reduction must be 'mean', 'sum' or 'none', got '", reduction_name, "'");
  }
};

struct HazardTensors {
  Tensor logits;
  Tensor time_bin;
  Tensor event;
  Tensor weights;
  int64_t rows;
  int32_t bins;

  HazardTensors(const Tensor& logits_, const Tensor& time_bin_, const Tensor& event_, const Tensor& weights_)
      : logits(contiguous_as(logits_, compute_type(logits_))),
        time_bin(contiguous_as(time_bin_, ScalarType::Long)),
        event(contiguous_as(event_, event_code_type(event_, compute_type(logits_)))),
        weights(contiguous_as(weights_, compute_type(logits_))) {
    check_device("time_bin", time_bin, "logits", logits);
    check_device("event", event, "logits", logits);
    check_device("weights", weights, "logits", logits);
    STD_TORCH_CHECK(logits.dim() == 2, "logits must be [rows, bins], got ", logits.dim(), " dimensions");
    rows = logits.size(0);
    // Far from where a 32-bit bin, or the first bin of the next step, overflows.
    STD_TORCH_CHECK(logits.size(1) <= int64_t(1) << 30, "logits have too many bins");
    bins = static_cast<int32_t>(logits.size(1));
    STD_TORCH_CHECK(time_bin.numel() == rows && event.numel() == rows,
                    "time_bin and event must have one entry per row of logits");
    STD_TORCH_CHECK(weights.numel() == rows || weights.numel() == 0,
                    "weights must have one entry per row of logits, or none");
  }

  // What backward takes besides: the loss's gradient, per row or one, and the divisor.
  void check_upstream(const Tensor& grad_loss, const Tensor& divisor, const HazardOptions& options) const {
    check_device("grad_loss", grad_loss, "logits", logits);
    check_device("divisor", divisor, "logits", logits);
    STD_TORCH_CHECK(grad_loss.numel() == (options.reduction == Reduction::none ? rows : 1) && divisor.numel() == 1,
                    "grad_loss must have the shape of the loss, and divisor one element");
  }

  EventCodes event_codes() const { return {event.const_data_ptr(), event.scalar_type()}; }
  bool weighted() const { return weights.numel() > 0; }
};

}  // namespace survcore
