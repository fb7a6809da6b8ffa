// The extension module openwafer.fabric._native: each part binds itself.

#include <nanobind/nanobind.h>

void bind_network(nanobind::module_& m);
void bind_machine(nanobind::module_& m);

NB_MODULE(_native, m) {
  m.doc() = "The native core of the fabric simulator.";
  bind_network(m);
  bind_machine(m);
}
