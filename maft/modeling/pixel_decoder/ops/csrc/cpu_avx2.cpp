// The forward kernel for processors with AVX2, FMA and F16C; empty elsewhere. Called only where the processor has them.
#if defined(__x86_64__)
#include <immintrin.h>

#include "forward.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace openseg_r {
namespace {

constexpr int kLanes = 8;
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

inline bool any(Ints mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }

inline float largest(Floats value) {
  __m128 high = _mm_max_ps(_mm256_castps256_ps128((__m256)value), _mm256_extractf128_ps((__m256)value, 1));
  high = _mm_max_ps(high, _mm_movehl_ps(high, high));
  return _mm_cvtss_f32(_mm_max_ss(high, _mm_movehdup_ps(high)));
}

inline float total(Floats value) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128((__m256)value), _mm256_extractf128_ps((__m256)value, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

inline Floats load(const HalfBits* source) {
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}

inline void store(HalfBits* target, Floats value) {
  const __m128i narrow = _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), narrow);
}

}  // namespace
}  // namespace openseg_r

#include "lanes.h"

namespace openseg_r {

void forward_avx2(const ForwardCall& call, const Tile& tile, int64_t image, float* scratch) {
  forward_any(call, tile, image, scratch);
}

}  // namespace openseg_r

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
