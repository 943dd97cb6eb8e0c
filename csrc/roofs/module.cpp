// survcore._roofs: how fast this CPU computes when it waits for no memory. What kernels are held against in benchmarks.
#include <pybind11/pybind11.h>

#include <chrono>
#include <cstdint>
#include <cstring>

#include "common/dispatch.h"

namespace survcore {
namespace {

// Enough independent sums to hide the latency of a fused multiply-add on two units.
constexpr int sums = 12;

// Sums of `rounds` multiplications and additions each; the factors are opaque to the compiler.
template <int bytes, class Real>
SURVCORE_INLINE Real multiply_and_add(int64_t rounds, Real start) {
  typedef Real Vector __attribute__((vector_size(bytes)));
  Vector sum[sums];
  Vector factor = {};
  factor += Real(0.999) + start;
  const Vector term = factor - Real(0.5);
  for (int i = 0; i < sums; ++i) sum[i] = factor * static_cast<Real>(i);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < sums; ++i) sum[i] = sum[i] * factor + term;
  }
  Vector total = {};
  for (int i = 0; i < sums; ++i) total += sum[i];
  Real result;
  std::memcpy(&result, &total, sizeof(Real));
  return result;
}

#define SURVCORE_MULTIPLY_AND_ADD(Real, bytes)                                       \
  SURVCORE_TARGET_##bytes Real run(VectorWidth<bytes>, int64_t rounds, Real start) { \
    return multiply_and_add<bytes, Real>(rounds, start);                             \
  }
SURVCORE_MULTIPLY_AND_ADD(float, 64)
SURVCORE_MULTIPLY_AND_ADD(float, 32)
SURVCORE_MULTIPLY_AND_ADD(float, 16)
SURVCORE_MULTIPLY_AND_ADD(double, 64)
SURVCORE_MULTIPLY_AND_ADD(double, 32)
SURVCORE_MULTIPLY_AND_ADD(double, 16)
#undef SURVCORE_MULTIPLY_AND_ADD

// Floating-point operations per second of one thread, the best stretch of about `seconds`.
template <class Real>
double fma_rate(double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t rounds = 1 << 16;
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  double best = 0;
  volatile Real start = 0;
  do {
    with_vector_width([&]<int bytes>(VectorWidth<bytes> width) {
      const auto before = Clock::now();
      start = run(width, rounds, start) * Real(0);
      const std::chrono::duration<double> taken = Clock::now() - before;
      const double operations = 2.0 * rounds * sums * (bytes / sizeof(Real));
      if (operations / taken.count() > best) best = operations / taken.count();
    });
  } while (Clock::now() < deadline);
  return best;
}

}  // namespace
}  // namespace survcore

PYBIND11_MODULE(_roofs, module) {
  namespace py = pybind11;
  module.doc() = "Rates of arithmetic on one thread of this CPU.";
  const auto released = py::call_guard<py::gil_scoped_release>();
  module.def("fma_rate_float", &survcore::fma_rate<float>, py::arg("seconds"), released,
             "float32 operations per second of fused multiply-adds in registers");
  module.def("fma_rate_double", &survcore::fma_rate<double>, py::arg("seconds"), released,
             "float64 operations per second of fused multiply-adds in registers");
}
