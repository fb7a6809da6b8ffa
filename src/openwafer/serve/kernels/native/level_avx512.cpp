#include "vector_avx512.hpp"

#include "loops.hpp"

namespace openwafer::serve {

const Level avx512_level = {"avx512", prepare, rows, rms_norm, rotate, swiglu, attend, merge, survey, heavier, read};

}  // namespace openwafer::serve
