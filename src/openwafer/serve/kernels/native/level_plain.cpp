#include "vector_plain.hpp"

#include "loops.hpp"

namespace openwafer::serve {

const Level plain_level = {"plain", prepare, rows, rms_norm, rotate, swiglu, attend, merge, survey, heavier, read};

}  // namespace openwafer::serve
