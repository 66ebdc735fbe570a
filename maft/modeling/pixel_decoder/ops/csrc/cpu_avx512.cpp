// The forward kernel for processors with AVX-512 (F, BW, DQ, VL); empty elsewhere. Called only where the processor has
// them.
#if defined(__x86_64__)
#include <immintrin.h>

#include "forward.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own avx512fintrin.h
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#endif

namespace openseg_r {
namespace {

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

inline bool any(Ints mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0; }

inline float largest(Floats value) { return _mm512_reduce_max_ps((__m512)value); }

inline float total(Floats value) { return _mm512_reduce_add_ps((__m512)value); }

inline Floats load(const HalfBits* source) {
  return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}

inline void store(HalfBits* target, Floats value) {
  const __m256i narrow = _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), narrow);
}

}  // namespace
}  // namespace openseg_r

#include "lanes.h"

namespace openseg_r {

void forward_avx512(const ForwardCall& call, const Tile& tile, int64_t image, float* scratch) {
  forward_any(call, tile, image, scratch);
}

}  // namespace openseg_r

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
