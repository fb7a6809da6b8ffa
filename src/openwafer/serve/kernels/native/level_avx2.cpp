#include "vector_avx2.hpp"

#include "loops.hpp"

namespace openwafer::serve {

const Level avx2_level = {"avx2", prepare, rows, rms_norm, rotate, swiglu, attend, merge, survey, heavier, read};

}  // namespace openwafer::serve
