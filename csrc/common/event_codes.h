// Columns of event codes, read in the type they are stored in.
#pragma once

#include "common/dispatch.h"
#include "common/tensors.h"
#include "core/hazard.h"

namespace survcore {

// Censored or not, as core/hazard.h reads a code.
struct AnyEvent {
  template <class Code>
  SURVCORE_INLINE int32_t operator()(Code code) const {
    return event_of(code);
  }
};

struct EventCodes {
  const void* data;
  ScalarType type;  // Bool, Long, Float or Double

  // events[i] = of(entry first + i) for `count` entries.
  template <class Of = AnyEvent>
  SURVCORE_INLINE void read(int64_t first, int count, int32_t* events, Of of = {}) const {
    switch (type) {
      case ScalarType::Bool:
        return read_as<uint8_t>(first, count, events, of);
      case ScalarType::Long:
        return read_as<int64_t>(first, count, events, of);
      case ScalarType::Float:
        return read_as<float>(first, count, events, of);
      default:
        return read_as<double>(first, count, events, of);
    }
  }

 private:
  template <class Code, class Of>
  SURVCORE_INLINE void read_as(int64_t first, int count, int32_t* events, Of of) const {
    const Code* codes = static_cast<const Code*>(data) + first;
    for (int i = 0; i < count; ++i) events[i] = of(codes[i]);
  }
};

// The type to read a column of event codes in: as it is where that is common, so that no copy is made.
inline ScalarType event_code_type(const Tensor& event, ScalarType compute) {
  const ScalarType type = event.scalar_type();
  if (type == ScalarType::Bool || type == ScalarType::Long) return type;
  const bool integer =
      type == ScalarType::Byte || type == ScalarType::Char || type == ScalarType::Short || type == ScalarType::Int;
  return integer ? ScalarType::Long : compute;
}

}  // namespace survcore
