// The forward kernel for any processor: vectors of four floats, which compilers turn into SSE2, NEON or plain code.
#include <torch/headeronly/util/Half.h>

#include "forward.h"

namespace openseg_r {
namespace {

constexpr int kLanes = 4;
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

inline bool any(Ints mask) { return (mask[0] | mask[1] | mask[2] | mask[3]) != 0; }

inline float largest(Floats value) {
  float high = value[0];
  for (int i = 1; i < kLanes; ++i) high = value[i] > high ? value[i] : high;
  return high;
}

inline float total(Floats value) { return (value[0] + value[1]) + (value[2] + value[3]); }

inline Floats load(const HalfBits* source) {
  Floats result;
  for (int i = 0; i < kLanes; ++i) {
    result[i] = c10::Half(source[i].bits, c10::Half::from_bits());
  }
  return result;
}

inline void store(HalfBits* target, Floats value) {
  for (int i = 0; i < kLanes; ++i) target[i].bits = c10::Half(value[i]).x;
}

}  // namespace
}  // namespace openseg_r

#include "lanes.h"

namespace openseg_r {

void forward_portable(const ForwardCall& call, const Tile& tile, int64_t image, float* scratch) {
  forward_any(call, tile, image, scratch);
}

}  // namespace openseg_r
