#include "bindings.h"
#include "search.h"

namespace survcore::metrics {

namespace {

Vector<std::int64_t> places_of(const Vector<double>& table, const Vector<double>& queries, bool inclusive) {
  const std::size_t size = common_length(table);
  const std::size_t count = common_length(queries);
  Vector<std::int64_t> places(queries.size());
  std::int64_t* output = places.mutable_data();
  py::gil_scoped_release release;
  search(table.data(), size, queries.data(), count, inclusive, output);
  return places;
}

}  // namespace

void bind_search(py::module_& module) {
  module.def("search", &places_of, py::arg("table"), py::arg("queries"), py::arg("inclusive"),
             "How many values of a rising table are smaller than each query, or not larger where inclusive.");
}

}  // namespace survcore::metrics
