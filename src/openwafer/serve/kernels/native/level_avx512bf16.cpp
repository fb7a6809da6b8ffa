#define OPENWAFER_BF16
#define OPENWAFER_VNNI
#include "vector_avx512.hpp"

#include "loops.hpp"

namespace openwafer::serve {

const Level avx512bf16_level = {"avx512bf16", prepare, rows, rms_norm, rotate, swiglu, attend, merge, survey, heavier, read};

}  // namespace openwafer::serve
