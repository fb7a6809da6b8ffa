#include "vector_plain.hpp"

#include "loops.hpp"

namespace openwafer::serve {

const Level plain_level = {"plain", prepare, rows, rms_norm, rotate, swiglu, attend, merge, read};

}  // namespace openwafer::serve
