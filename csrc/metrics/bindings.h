// What the files that bind the metrics to Python share: NumPy in and NumPy out, values checked in survcore/metrics.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <stdexcept>

namespace survcore::metrics {

namespace py = pybind11;

template <typename T>
using Vector = py::array_t<T, py::array::c_style | py::array::forcecast>;

// The common length of the arguments.
template <typename First, typename... Others>
std::size_t common_length(const First& first, const Others&... others) {
  if (first.ndim() != 1 || ((others.ndim() != 1) || ...) || ((others.size() != first.size()) || ...)) {
    throw std::invalid_argument("expected vectors of one length");
  }
  return static_cast<std::size_t>(first.size());
}

void bind_auc(py::module_& module);
void bind_brier(py::module_& module);
void bind_concordance(py::module_& module);
void bind_kaplan_meier(py::module_& module);
void bind_search(py::module_& module);

}  // namespace survcore::metrics
