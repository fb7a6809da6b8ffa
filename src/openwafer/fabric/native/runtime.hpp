// The table of functions that compiled code calls.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace openwafer {

std::map<std::string, uintptr_t> runtime_addresses();

}  // namespace openwafer
