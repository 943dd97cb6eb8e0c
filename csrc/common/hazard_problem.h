// One call of discrete_hazard_nll as its CPU kernels take it.
#pragma once

#include <cstdint>

#include "common/event_codes.h"
#include "common/hazard_arguments.h"

namespace survcore {

constexpr int hazard_chunk_rows = 512;

template <class Real>
struct HazardProblem {
  const Real* logits;       // [rows, bins]
  const int64_t* time_bin;  // [rows]
  EventCodes event;         // [rows]
  const Real* weights;      // [rows], or null: all 1
  int32_t bins;
  HazardForm form;
  Real alpha;

  HazardProblem(const HazardTensors& tensors, const HazardOptions& options)
      : logits(static_cast<const Real*>(tensors.logits.const_data_ptr())),
        time_bin(static_cast<const int64_t*>(tensors.time_bin.const_data_ptr())),
        event(tensors.event_codes()),
        weights(tensors.weighted() ? static_cast<const Real*>(tensors.weights.const_data_ptr()) : nullptr),
        bins(tensors.bins),
        form(options.form),
        alpha(static_cast<Real>(options.alpha)) {}

  // Whether every valid row counts 1 and reads the bins from the first one on.
  bool uniform() const { return !weights && alpha == Real(0) && !form.event_bin_only; }
};

// Where a chunk's gradient goes and what it is multiplied by.
template <class Real>
struct HazardGradient {
  Real* output;      // [rows, bins]
  Real factor;       // of all rows
  const Real* rows;  // [rows], or null: a further factor of each row
};

}  // namespace survcore
