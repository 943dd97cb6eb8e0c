#include "bindings.h"
#include "brier.h"

namespace survcore::metrics {

namespace {

// One type of curves, in whichever of the two orders they lie in memory.
template <class Real>
py::tuple sums_of(const py::array_t<Real>& survival, const Vector<std::int64_t>& place, const Vector<double>& weight,
                  const Vector<double>& control_weight) {
  const std::size_t rows = common_length(place, weight);
  const std::size_t times = common_length(control_weight);
  const bool by_row = (survival.flags() & py::array::c_style) != 0;
  const bool by_time = !by_row && (survival.flags() & py::array::f_style) != 0;
  if (survival.ndim() != 2 || static_cast<std::size_t>(survival.shape(0)) != rows ||
      static_cast<std::size_t>(survival.shape(1)) != times || !(by_row || by_time)) {
    throw std::invalid_argument("expected contiguous curves of one row per place and one column per control weight");
  }
  for (std::size_t row = 0; row < rows; ++row) {
    if (place.data()[row] < 0 || place.data()[row] > static_cast<std::int64_t>(times)) {
      throw std::invalid_argument("expected places from 0 to the number of times");
    }
  }
  Vector<double> sums(control_weight.size());
  double* output = sums.mutable_data();
  std::int64_t wrong;
  {
    py::gil_scoped_release release;
    wrong =
        brier_sums(survival.data(), rows, times, by_time, place.data(), weight.data(), control_weight.data(), output);
  }
  return py::make_tuple(sums, wrong);
}

}  // namespace

void bind_brier(py::module_& module) {
  const char* doc =
      "Sums of the Brier scores per time, and -1 or the flat index of a survival that is not in [0, 1]; survival "
      "[rows, times], rows or columns contiguous.";
  const auto define = [&](auto function) {
    module.def("brier_sums", function, py::arg("survival").noconvert(), py::arg("place"), py::arg("weight"),
               py::arg("control_weight"), doc);
  };
  define(&sums_of<float>);
  define(&sums_of<double>);
}

}  // namespace survcore::metrics
