#include "auc.h"
#include "bindings.h"
#include "order.h"

namespace survcore::metrics {

namespace {

Vector<double> sums_of(const Vector<double>& risk, Vector<std::uint64_t> risk_order, const Vector<std::int64_t>& place,
                       const Vector<double>& weight, std::size_t times) {
  const std::size_t count = common_length(risk, risk_order, place, weight);
  for (std::size_t row = 0; row < count; ++row) {
    if (place.data()[row] < 0 || place.data()[row] > static_cast<std::int64_t>(times)) {
      throw std::invalid_argument("expected places from 0 to the number of times");
    }
  }
  std::uint64_t* order = risk_order.mutable_data();
  Vector<double> sums(static_cast<py::ssize_t>(times));
  double* output = sums.mutable_data();
  py::gil_scoped_release release;
  finish_order(risk.data(), count, order);
  auc_sums(risk.data(), order, count, place.data(), weight.data(), times, output);
  return sums;
}

}  // namespace

void bind_auc(py::module_& module) {
  module.def("auc_sums", &sums_of, py::arg("risk"), py::arg("risk_order"), py::arg("place"), py::arg("weight"),
             py::arg("times"),
             "Doubled sums of weighted concordant pairs per time; risk_order, sorted words of pack_order, is "
             "overwritten.");
}

}  // namespace survcore::metrics
