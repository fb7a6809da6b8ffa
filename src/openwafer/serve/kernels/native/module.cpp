// The extension module openwafer.serve.kernels._native. Tensors come as addresses; who calls keeps them alive and has
// checked their shapes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <string>

#include "kernels.hpp"
#include "pool.hpp"

namespace nb = nanobind;
using namespace openwafer::serve;

namespace {

// Below this, waking up threads that sleep between two steps takes longer than what they save (two cores).
constexpr int64_t MANY_LOGITS = 1 << 22;

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// A layer keeps its matrices: copies, which only hold addresses.
struct BoundLayer {
  std::vector<Matrix> matrices;
  Layer layer;
};

std::vector<std::string> level_names() {
  std::vector<std::string> names;
  for (const Level* level : levels()) names.push_back(level->name);
  return names;
}

// Reads memory as fast as it goes, in chunks like those of a product.
float read_probe(uintptr_t address, int64_t bytes) {
  constexpr int64_t CHUNK = 128 * 1024;
  const float* numbers = pointer<const float>(address);
  std::atomic<float> top{0};
  const nb::gil_scoped_release release;
  shared_pool()->each(bytes / CHUNK, [&](int64_t i) {
    const float largest = levels().back()->read(numbers + i * (CHUNK / 4), CHUNK / 4);
    if (largest > top.load(std::memory_order_relaxed)) top.store(largest, std::memory_order_relaxed);
  });
  return top.load();
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native kernels for decoding on the CPU.";
  m.def("levels", level_names);
  m.def("threads", &threads);
  m.def("set_threads", &set_threads, nb::call_guard<nb::gil_scoped_release>());
  m.def("read_probe", &read_probe);
  m.def("want_large_pages", [](uintptr_t start, size_t bytes) { want_large_pages(pointer<void>(start), bytes); });
  m.def("attention", [](int level, int type, int64_t heads, int64_t head_dim, int64_t heads_kv, int64_t window,
                        uintptr_t query, uintptr_t keys, uintptr_t values, uintptr_t tables, int64_t table_width,
                        uintptr_t tokens, int64_t token_count, uintptr_t out) {
    const nb::gil_scoped_release release;
    attend(*levels()[size_t(level)],
           {Type(type), heads, heads_kv, head_dim, window, pointer<void>(query), pointer<void>(keys),
            pointer<void>(values), pointer<int32_t>(tables), table_width, pointer<Place>(tokens), pointer<void>(out), 0,
            nullptr},
           token_count);
  });
  // Rows of `count` logits, each as (logits, mask or None, scale, top_p, draw, weights, told, tops). Gives (token, limit,
  // whole, likely) for each.
  m.def("choose", [](int level, int64_t count, const nb::list& rows) {
    std::vector<Choice> choices;
    choices.reserve(rows.size());
    for (const nb::handle row : rows) {
      const nb::tuple of = nb::cast<nb::tuple>(row);
      const char* mask = nullptr;
      if (!of[1].is_none()) {
        const nb::bytes bits = nb::cast<nb::bytes>(of[1]);
        if (int64_t(bits.size()) * 8 < count) throw nb::value_error("a mask has fewer bits than the vocabulary tokens");
        mask = bits.c_str();  // the row keeps it
      }
      choices.push_back({pointer<float>(nb::cast<uintptr_t>(of[0])), reinterpret_cast<const uint8_t*>(mask),
                         nb::cast<float>(of[2]), nb::cast<double>(of[3]), nb::cast<double>(of[4]),
                         pointer<float>(nb::cast<uintptr_t>(of[5])), pointer<float>(nb::cast<uintptr_t>(of[6])),
                         nb::cast<int64_t>(of[7])});
    }
    {
      const nb::gil_scoped_release release;
      auto choose_one = [&](int64_t row) { choose(*levels()[size_t(level)], count, choices[size_t(row)]); };
      if (count * int64_t(choices.size()) < MANY_LOGITS) {
        for (int64_t row = 0; row < int64_t(choices.size()); ++row) choose_one(row);
      } else {
        shared_pool()->each(int64_t(choices.size()), choose_one);
      }
    }
    nb::list found;
    for (const Choice& of : choices) {
      nb::list likely;
      for (const auto& [token, logprob] : of.likely) likely.append(nb::make_tuple(token, logprob));
      found.append(nb::make_tuple(of.token, of.limit, of.whole, likely));
    }
    return found;
  });
  m.def("draw_again", [](int level, uintptr_t weights, int64_t count, double limit, double draw) {
    const nb::gil_scoped_release release;
    return draw_again(*levels()[size_t(level)], pointer<float>(weights), count, limit, draw);
  });
  m.def("swiglu", [](int level, int type, int64_t tokens, int64_t width, uintptr_t gate_up, uintptr_t out) {
    const int64_t size = int64_t(bytes_of(Type(type)));
    const nb::gil_scoped_release release;
    shared_pool()->each(tokens, [&](int64_t t) {
      const char* gate = pointer<const char>(gate_up) + 2 * t * width * size;
      levels()[size_t(level)]->swiglu(Type(type), gate, gate + width * size, width, pointer<char>(out) + t * width * size);
    });
  });
  nb::class_<Matrix>(m, "Matrix")
      .def("__init__",
           [](Matrix* self, int level, int weight_type, int type, int64_t rows, int64_t columns, uintptr_t weight,
              uintptr_t bias, uintptr_t scale, uintptr_t sum) {
             new (self) Matrix{levels()[size_t(level)], Type(weight_type), Type(type), rows, columns,
                               pointer<void>(weight), pointer<void>(bias), pointer<float>(scale),
                               pointer<int32_t>(sum)};
           })
      .def("multiply", [](const Matrix& self, uintptr_t x, int64_t tokens, uintptr_t y, bool wide) {
        const nb::gil_scoped_release release;
        self.multiply(pointer<void>(x), tokens, nullptr, pointer<void>(y), wide);
      });
  nb::class_<BoundLayer>(m, "Layer")
      .def("__init__",
           [](BoundLayer* self, int level, int type, const std::vector<const Matrix*>& matrices,
              const std::vector<uintptr_t>& norms, float epsilon, int64_t heads, int64_t heads_kv, int64_t head_dim,
              int64_t window) {
             new (self) BoundLayer;
             for (const Matrix* matrix : matrices) self->matrices.push_back(*matrix);
             self->layer = {levels()[size_t(level)], Type(type), &self->matrices[0], &self->matrices[1],
                            &self->matrices[2], &self->matrices[3], pointer<void>(norms[0]), pointer<void>(norms[1]),
                            pointer<void>(norms[2]), pointer<void>(norms[3]), epsilon, heads, heads_kv, head_dim,
                            window};
           })
      .def("run", [](const BoundLayer& self, uintptr_t x, int64_t tokens, uintptr_t places, uintptr_t tables,
                     int64_t table_width, uintptr_t cosine, uintptr_t sine, uintptr_t keys, uintptr_t values,
                     uintptr_t out) {
        const nb::gil_scoped_release release;
        self.layer.run(pointer<void>(x), tokens, pointer<Place>(places),
                       {pointer<void>(keys), pointer<void>(values), pointer<int32_t>(tables), table_width},
                       pointer<float>(cosine), pointer<float>(sine), pointer<void>(out));
      });
}
