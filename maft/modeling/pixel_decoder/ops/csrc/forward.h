// What the CPU operators hand to the forward kernels, of which there is one for each instruction set.
//
// A place is one point on one level; the places of an item stand in a row, level by level. Nothing in this file is a
// template or an inline function with code: it is read by files compiled for different instruction sets, and the linker
// keeps one copy of such a function, possibly the one that this processor cannot run.
#pragma once

#include <cstdint>

#include "sampling.h"

namespace openseg_r {

constexpr int kMaxLanes = 16;    // floats in the widest vector; tables are padded to a multiple of it
constexpr int kTileSide = 16;    // queries of a tile in each direction
constexpr int kTileQueries = kTileSide * kTileSide;

struct BFloat16Bits {
  uint16_t bits;
};

struct HalfBits {
  uint16_t bits;
};

enum class Format { kFloat, kBFloat16, kHalf };

// What a place takes from its level; `padded` entries each, those from `count` on belong to no place.
struct Places {
  int count;
  int padded;
  const float* width;
  const float* height;
  const int32_t* columns;  // the width as an integer
  const int32_t* rows;
  const int32_t* start;   // number of value's positions before the level
  const int32_t* real;    // -1 for a place, 0 for padding
  const int64_t* below;   // elements of value from a pixel to the one below it
};

// Queries that are neighbours in the image, so that what one reads the next finds in the cache.
struct Tile {
  int64_t first;  // query
  int64_t step;   // queries from one row to the next
  int rows;
  int columns;
};

struct ForwardCall {
  Problem problem;
  Places places;
  Format format;  // of value and result
  const void* value;
  int64_t pixel_step;  // elements of value from a pixel to the next in its row
  int64_t head_step;   // and from a head to the next
  void* result;
  const float* points;     // sampling locations; where `reference` is given, offsets in pixels
  const float* weights;    // attention weights; where `reference` is given, their logits
  const float* reference;  // (images, queries, levels, 2), or null
  int64_t reference_step;  // floats from one image's reference points to the next's, 0 where all share one's
};

// Floats that a kernel needs as scratch: a place's four weights, its pixel and its bits, a copy of the last items'
// points and weights, and two split coordinates of every place of a tile's queries.
constexpr int64_t kScratchPerPlace = 6 + 3 + 4 * kTileQueries;

using ForwardKernel = void (*)(const ForwardCall& call, const Tile& tile, int64_t image, float* scratch);

void forward_portable(const ForwardCall& call, const Tile& tile, int64_t image, float* scratch);
#if defined(__x86_64__)
void forward_avx2(const ForwardCall& call, const Tile& tile, int64_t image, float* scratch);
void forward_avx512(const ForwardCall& call, const Tile& tile, int64_t image, float* scratch);
#endif

}  // namespace openseg_r
