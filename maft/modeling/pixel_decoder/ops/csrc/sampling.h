// The arithmetic of multi-scale deformable attention, written once and compiled for the CPU and for CUDA.
//
// Tensors are contiguous. An item is one (batch, query, head); items are numbered as sampling_locations lays them out,
// so item i owns locations and weights from i * levels * points on. T is the dtype of value, A the dtype of sums.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define OPENSEG_R_HD __host__ __device__ inline
#else
#define OPENSEG_R_HD inline
#endif

namespace openseg_r {

constexpr int kMaxLevels = 16;

struct Level {
  int height;
  int width;
  int64_t start;  // number of value's positions before this level
};

// Passed by value, so that a CUDA launch copies no shape to the device.
struct Problem {
  int64_t batch;
  int64_t positions;
  int64_t heads;
  int64_t channels;  // of one head
  int64_t queries;
  int levels;
  int points;
  Level level[kMaxLevels];

  OPENSEG_R_HD int64_t items() const { return batch * queries * heads; }

  // Offset in value of the first channel of an item's head, at the first position of the item's image.
  OPENSEG_R_HD int64_t value_offset(int64_t item) const {
    const int64_t head = item % heads;
    const int64_t image = item / (heads * queries);
    return (image * positions * heads + head) * channels;
  }
};

// The four pixels around a location: 0 and 1 above, 2 and 3 below; even ones left, odd ones right.
template <typename A>
struct Taps {
  int64_t pixel[4];  // row-major number in the level; -1 where the pixel lies outside and counts as zero
  A weight[4];       // bilinear weight
  A slope_x[4];      // its derivatives with respect to the location in [0, 1]
  A slope_y[4];
};

template <typename A>
OPENSEG_R_HD Taps<A> make_taps(A location_x, A location_y, int height, int width) {
  Taps<A> taps;
  // 0 and 1 are the outer edges of the level, whose first pixel has its centre at half a pixel.
  const A x = location_x * static_cast<A>(width) - static_cast<A>(0.5);
  const A y = location_y * static_cast<A>(height) - static_cast<A>(0.5);
  for (int i = 0; i < 4; ++i) {
    taps.pixel[i] = -1;
    taps.weight[i] = taps.slope_x[i] = taps.slope_y[i] = 0;
  }
  if (!std::isfinite(x) || !std::isfinite(y)) {  // must show in the result, as it does in grid_sample
    taps.pixel[0] = 0;
    taps.weight[0] = taps.slope_x[0] = taps.slope_y[0] = 0 * x + 0 * y;  // not a number
    return taps;
  }
  // Before any conversion to int: a location far outside does not fit into one.
  if (!(x > -1 && x < static_cast<A>(width) && y > -1 && y < static_cast<A>(height))) return taps;
  const A floor_x = std::floor(x);
  const A floor_y = std::floor(y);
  const A share_x = x - floor_x;
  const A share_y = y - floor_y;
  const int left = static_cast<int>(floor_x);
  const int top = static_cast<int>(floor_y);
  for (int i = 0; i < 4; ++i) {
    const bool right = i & 1;
    const bool below = i & 2;
    const int column = left + right;
    const int row = top + below;
    if (column < 0 || column >= width || row < 0 || row >= height) continue;
    const A weight_x = right ? share_x : 1 - share_x;
    const A weight_y = below ? share_y : 1 - share_y;
    taps.pixel[i] = static_cast<int64_t>(row) * width + column;
    taps.weight[i] = weight_x * weight_y;
    taps.slope_x[i] = (right ? weight_y : -weight_y) * static_cast<A>(width);
    taps.slope_y[i] = (below ? weight_x : -weight_x) * static_cast<A>(height);
  }
  return taps;
}

// sum[0..count) += the item's result for `count` channels from `first` on.
template <typename T, typename A>
OPENSEG_R_HD void forward_item(const Problem& problem, int64_t item, int64_t first, int64_t count,
                               const T* __restrict__ value, const A* __restrict__ locations,
                               const A* __restrict__ weights, A* __restrict__ sum) {
  const int64_t stride = problem.heads * problem.channels;
  const T* head = value + problem.value_offset(item) + first;
  int64_t place = item * problem.levels * problem.points;
  for (int l = 0; l < problem.levels; ++l) {
    const Level level = problem.level[l];
    const T* origin = head + level.start * stride;
    for (int p = 0; p < problem.points; ++p, ++place) {
      const Taps<A> taps = make_taps(locations[2 * place], locations[2 * place + 1], level.height, level.width);
      for (int i = 0; i < 4; ++i) {
        if (taps.pixel[i] < 0) continue;
        const T* source = origin + taps.pixel[i] * stride;
        const A scale = weights[place] * taps.weight[i];
#ifndef __CUDACC__
#pragma omp simd
#endif
        for (int64_t c = 0; c < count; ++c) sum[c] += scale * static_cast<A>(source[c]);
      }
    }
  }
}

template <typename A>
struct PlaceGradient {
  A x;
  A y;
  A weight;
};

// The part of one place's gradient that `count` channels contribute; `add` adds to an element of grad_value.
template <typename T, typename A, typename Add>
OPENSEG_R_HD void backward_place(const Taps<A>& taps, A weight, int64_t stride, int64_t count,
                                 const T* __restrict__ origin, const T* __restrict__ grad,
                                 A* __restrict__ grad_origin, Add add, PlaceGradient<A>& total) {
  for (int i = 0; i < 4; ++i) {
    if (taps.pixel[i] < 0) continue;
    const T* source = origin + taps.pixel[i] * stride;
    A* target = grad_origin + taps.pixel[i] * stride;
    const A scale = weight * taps.weight[i];
    A dot = 0;
#ifndef __CUDACC__
#pragma omp simd reduction(+ : dot)
#endif
    for (int64_t c = 0; c < count; ++c) {
      const A upstream = static_cast<A>(grad[c]);
      dot += upstream * static_cast<A>(source[c]);
      add(target + c, scale * upstream);
    }
    total.x += weight * taps.slope_x[i] * dot;
    total.y += weight * taps.slope_y[i] * dot;
    total.weight += taps.weight[i] * dot;
  }
}

// Gradients of one item. The caller walks the channels first, first + step, ... in runs of `count`; `finish` receives
// each place's number and the gradient that these channels contribute to it.
template <typename T, typename A, typename Add, typename Finish>
OPENSEG_R_HD void backward_item(const Problem& problem, int64_t item, int64_t first, int64_t step, int64_t count,
                                const T* grad, const T* value, const A* locations, const A* weights, A* grad_value,
                                Add add, Finish finish) {
  const int64_t stride = problem.heads * problem.channels;
  const int64_t head = problem.value_offset(item);
  const T* upstream = grad + item * problem.channels;
  int64_t place = item * problem.levels * problem.points;
  for (int l = 0; l < problem.levels; ++l) {
    const Level level = problem.level[l];
    const int64_t origin = head + level.start * stride;
    for (int p = 0; p < problem.points; ++p, ++place) {
      const Taps<A> taps = make_taps(locations[2 * place], locations[2 * place + 1], level.height, level.width);
      PlaceGradient<A> total{0, 0, 0};
      for (int64_t c = first; c < problem.channels; c += step) {
        backward_place(taps, weights[place], stride, count, value + origin + c, upstream + c, grad_value + origin + c,
                       add, total);
      }
      finish(place, total);
    }
  }
}

}  // namespace openseg_r
