// The forward kernel over vectors of kLanes floats, compiled once for each instruction set.
//
// A file that includes this defines in openseg_r::(anonymous), for its instruction set: kLanes, the vector types Floats
// and Ints, and
//     bool any(Ints mask), float largest(Floats), float total(Floats),
//     Floats load(const HalfBits*), void store(HalfBits*, Floats).
// Everything here has internal linkage, see forward.h.

namespace openseg_r {
namespace {

typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Shorts __attribute__((vector_size(2 * kLanes)));

template <typename To, typename From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "a cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

inline Floats load(const float* source) {
  Floats result;
  __builtin_memcpy(&result, source, sizeof(result));
  return result;
}

inline Ints load(const int32_t* source) {
  Ints result;
  __builtin_memcpy(&result, source, sizeof(result));
  return result;
}

inline Floats load(const BFloat16Bits* source) {
  Shorts narrow;
  __builtin_memcpy(&narrow, source, sizeof(narrow));
  return bits_as<Floats>(__builtin_convertvector(narrow, Words) << 16);
}

inline void store(float* target, Floats value) { __builtin_memcpy(target, &value, sizeof(value)); }

inline void store(int32_t* target, Ints value) { __builtin_memcpy(target, &value, sizeof(value)); }

// bfloat16 in the low halves of words, to nearest, ties to even.
inline Words bfloat16_of(Floats value) {
  const Words word = bits_as<Words>(value);
  const Words rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
  return value == value ? rounded : (Words{} + 0x7fc0);
}

inline void store(BFloat16Bits* target, Floats value) {
  const Shorts narrow = __builtin_convertvector(bfloat16_of(value), Shorts);
  __builtin_memcpy(target, &narrow, sizeof(narrow));
}

inline Floats splat(float value) { return Floats{} + value; }

// Toward zero and one less where that went up: the value must fit into an int.
inline Floats floor_of(Floats value) {
  const Floats cut = __builtin_convertvector(__builtin_convertvector(value, Ints), Floats);
  return cut > value ? cut - 1.0f : cut;
}

// exp(x) for x <= 0 to 1e-7 relative: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. 0 below -87, NaN for NaN.
inline Floats exp_of(Floats x) {
  const Floats bounded = x < -87.0f ? splat(-87.0f) : x;
  const Floats shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = bounded * 1.44269504f + shifter;
  const Floats n = shifted - shifter;
  const Floats r = bounded - n * 0.693359375f - n * -2.12194440e-4f;
  Floats power = splat(1.0f / 720);
  power = power * r + 1.0f / 120;
  power = power * r + 1.0f / 24;
  power = power * r + 1.0f / 6;
  power = power * r + 0.5f;
  power = power * r + 1.0f;
  power = power * r + 1.0f;
  // n stands in the low bits of `shifted`; moved up 23 bits it is an exponent.
  const Words exponent = bits_as<Words>(shifted) << 23;
  const Floats result = bits_as<Floats>(bits_as<Words>(power) + exponent);
  return x < -87.0f ? Floats{} : x == x ? result : x;
}

struct Scratch {
  float* weight[4];  // of the pixels around each place: 0 and 1 above, 2 and 3 below; even ones left, odd ones right
  int32_t* pixel;    // number of the pixel above left in the image, which may lie outside
  int32_t* bits;     // bit i: pixel i is inside
  float* points;     // the copy of an item at the end of the tensors, so that no kernel reads beyond them
  float* weights;
  float* base;       // see place_references
};

inline Scratch cut_scratch(float* memory, int padded) {
  Scratch scratch;
  for (int i = 0; i < 4; ++i) scratch.weight[i] = memory + i * padded;
  scratch.pixel = reinterpret_cast<int32_t*>(memory + 4 * padded);
  scratch.bits = reinterpret_cast<int32_t*>(memory + 5 * padded);
  scratch.points = memory + 6 * padded;
  scratch.weights = memory + 8 * padded;
  scratch.base = memory + 9 * padded;
  return scratch;
}

// Softmax over the item's places into scratch.weight[0]; NaN everywhere where torch's softmax has it.
inline void softmax(const Places& places, const float* logits, const Scratch& scratch) {
  const Floats lowest = splat(-__builtin_inff());
  Floats high = lowest;
  Ints strange = {};
  for (int j = 0; j < places.padded; j += kLanes) {
    const Floats logit = load(places.real + j) ? load(logits + j) : lowest;
    strange |= logit != logit;
    high = logit > high ? logit : high;
  }
  const float top = any(strange) ? __builtin_nanf("") : largest(high);
  Floats sum = {};
  for (int j = 0; j < places.padded; j += kLanes) {
    const Floats share = load(places.real + j) ? exp_of(load(logits + j) - top) : Floats{};
    sum += share;
    store(scratch.weight[0] + j, share);
  }
  const float scale = 1.0f / total(sum);
  for (int j = 0; j < places.padded; j += kLanes) {
    store(scratch.weight[0] + j, load(scratch.weight[0] + j) * scale);
  }
}

// The pixels around every place of an item, and their weights; whether all of them are inside.
template <bool kFused>
inline bool prepare(const Places& places, const float* points, const float* weights, const float* base,
                    const Scratch& scratch) {
  if (kFused) softmax(places, weights, scratch);
  Ints outside = {};
  for (int j = 0; j < places.padded; j += kLanes) {
    float first[kLanes];
    float second[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      first[i] = points[2 * (j + i)];
      second[i] = points[2 * (j + i) + 1];
    }
    const Floats width = load(places.width + j);
    const Floats height = load(places.height + j);
    // x and y count from a pixel, the first of the level or one beside the reference point: the nearer, the less of a
    // coordinate's fraction is lost to rounding.
    const Floats from_x = kFused ? load(base + 2 * places.padded + j) : Floats{};
    const Floats from_y = kFused ? load(base + 3 * places.padded + j) : Floats{};
    const Floats x = kFused ? load(first) + load(base + j) : load(first) * width - 0.5f;
    const Floats y = kFused ? load(second) + load(base + places.padded + j) : load(second) * height - 0.5f;
    // A location far outside does not fit into an int; NaN becomes -2, outside, and is put right below.
    const Floats lowest_x = -2.0f - from_x;
    const Floats lowest_y = -2.0f - from_y;
    Floats near_x = x > lowest_x ? x : lowest_x;
    Floats near_y = y > lowest_y ? y : lowest_y;
    near_x = near_x < width - from_x ? near_x : width - from_x;
    near_y = near_y < height - from_y ? near_y : height - from_y;
    const Floats floor_x = floor_of(near_x);
    const Floats floor_y = floor_of(near_y);
    const Floats right = near_x - floor_x;
    const Floats below = near_y - floor_y;
    const Ints column = __builtin_convertvector(floor_x + from_x, Ints);
    const Ints row = __builtin_convertvector(floor_y + from_y, Ints);
    const Ints columns = load(places.columns + j);
    const Ints rows = load(places.rows + j);
    const Ints in_left = (column >= 0) & (column < columns);
    const Ints in_right = (near_x > lowest_x + 1.0f) & (column < columns - 1);
    const Ints in_above = (row >= 0) & (row < rows);
    const Ints in_below = (near_y > lowest_y + 1.0f) & (row < rows - 1);
    Ints bits = (in_left & in_above & 1) | (in_right & in_above & 2) | (in_left & in_below & 4) |
                (in_right & in_below & 8);
    const Floats weight = load((kFused ? scratch.weight[0] : weights) + j);
    const Floats above_weight = (1.0f - below) * weight;
    const Floats below_weight = below * weight;
    Floats first_weight = (1.0f - right) * above_weight;
    const Ints start = load(places.start + j);
    Ints pixel = start + row * columns + column;
    // What is no number shows in the result: NaN times the level's first pixel.
    const Floats strange = (x - x) + (y - y);
    const Ints finite = strange == 0.0f;
    first_weight = finite ? first_weight : strange;
    bits = finite ? bits : ((columns > 0) & (rows > 0) & 1);
    pixel = finite ? pixel : start;
    outside |= (bits != 15) & load(places.real + j);
    store(scratch.weight[0] + j, first_weight);
    store(scratch.weight[1] + j, right * above_weight);
    store(scratch.weight[2] + j, (1.0f - right) * below_weight);
    store(scratch.weight[3] + j, right * below_weight);
    store(scratch.pixel + j, pixel);
    store(scratch.bits + j, bits);
  }
  return !any(outside);
}

// Where an item reads: value's first channel to be summed at the image's first position, and the way to the next one.
template <typename T>
struct Source {
  const T* value;
  int64_t stride;
};

template <int kVectors, typename T>
inline void add(Floats (&sum)[kVectors], const T* source, float weight) {
  for (int v = 0; v < kVectors; ++v) sum[v] += load(source + v * kLanes) * weight;
}

template <int kVectors, typename T>
inline void store_sums(T* target, const Floats (&left)[kVectors], const Floats (&right)[kVectors]) {
  for (int v = 0; v < kVectors; ++v) store(target + v * kLanes, left[v] + right[v]);
}

// Two bfloat16 vectors are one of words, whose low and high halves are summed apart and joined at the end: half the
// instructions of widening each.
template <int kVectors>
inline void add(Floats (&sum)[kVectors], const BFloat16Bits* source, float weight) {
  static_assert(kVectors == 1 || kVectors % 2 == 0, "vectors come in pairs");
  if (kVectors == 1) {
    sum[0] += load(source) * weight;
    return;
  }
  for (int v = 0; v + 1 < kVectors; v += 2) {
    Words pair;
    __builtin_memcpy(&pair, source + v * kLanes, sizeof(pair));
    sum[v] += bits_as<Floats>(pair << 16) * weight;
    sum[v + 1] += bits_as<Floats>(pair & 0xffff0000u) * weight;
  }
}

template <int kVectors>
inline void store_sums(BFloat16Bits* target, const Floats (&left)[kVectors], const Floats (&right)[kVectors]) {
  if (kVectors == 1) store(target, left[0] + right[0]);
  for (int v = 0; v + 1 < kVectors; v += 2) {
    const Words pair = bfloat16_of(left[v] + right[v]) | bfloat16_of(left[v + 1] + right[v + 1]) << 16;
    __builtin_memcpy(target + v * kLanes, &pair, sizeof(pair));
  }
}

// The result of kVectors * kLanes channels. Sums stay in registers, in two sets so that additions overlap.
template <int kVectors, bool kInside, typename T>
inline void sum_channels(const Places& places, const Scratch& scratch, const Source<T>& source, T* target) {
  Floats left[kVectors] = {};
  Floats right[kVectors] = {};
  for (int j = 0; j < places.count; ++j) {
    const int32_t bits = kInside ? 15 : scratch.bits[j];
    const T* above = source.value + scratch.pixel[j] * source.stride;
    const T* below = above + places.below[j];
    if (bits & 1) add(left, above, scratch.weight[0][j]);
    if (bits & 2) add(right, above + source.stride, scratch.weight[1][j]);
    if (bits & 4) add(left, below, scratch.weight[2][j]);
    if (bits & 8) add(right, below + source.stride, scratch.weight[3][j]);
  }
  store_sums(target, left, right);
}

// The same for `count` channels, less than a vector holds.
template <typename T>
inline void sum_rest(const Places& places, const Scratch& scratch, const Source<T>& source, T* target, int count) {
  float sum[kLanes] = {};
  for (int j = 0; j < places.count; ++j) {
    const T* above = source.value + scratch.pixel[j] * source.stride;
    const T* below = above + places.below[j];
    const T* pixel[4] = {above, above + source.stride, below, below + source.stride};
    for (int i = 0; i < 4; ++i) {
      if (!(scratch.bits[j] >> i & 1)) continue;
      T part[kLanes] = {};
      __builtin_memcpy(part, pixel[i], count * sizeof(T));
      store(sum, load(sum) + load(part) * scratch.weight[i][j]);
    }
  }
  T rounded[kLanes];
  store(rounded, load(sum));
  __builtin_memcpy(target, rounded, count * sizeof(T));
}

template <bool kInside, typename T>
inline void sum_item(const Places& places, const Scratch& scratch, Source<T> source, T* target, int64_t channels) {
  for (; channels >= 4 * kLanes; channels -= 4 * kLanes, source.value += 4 * kLanes, target += 4 * kLanes) {
    sum_channels<4, kInside>(places, scratch, source, target);
  }
  for (; channels >= 2 * kLanes; channels -= 2 * kLanes, source.value += 2 * kLanes, target += 2 * kLanes) {
    sum_channels<2, kInside>(places, scratch, source, target);
  }
  for (; channels >= kLanes; channels -= kLanes, source.value += kLanes, target += kLanes) {
    sum_channels<1, kInside>(places, scratch, source, target);
  }
  if (channels > 0) sum_rest(places, scratch, source, target, static_cast<int>(channels));
}

// Fetch what the item two queries on reads and writes: an image's heads lie between, too far apart for the processor to
// foresee. Beyond the tensors' ends this does nothing.
template <typename T>
inline void prefetch(const float* points, const float* weights, T* target, const Problem& problem, int places) {
  const int64_t items = 2 * problem.heads;
  const char* ahead = reinterpret_cast<const char*>(points + 2 * items * places);
  __builtin_prefetch(ahead);
  __builtin_prefetch(ahead + 64);
  __builtin_prefetch(weights + items * places);
  __builtin_prefetch(target + items * problem.channels, 1);
  __builtin_prefetch(reinterpret_cast<char*>(target + items * problem.channels) + 64, 1);
}

// A reference coordinate in pixels as a pixel and the way from there; one that is no number or far outside is all way.
inline void split(float reference, float size, float* way, float* from) {
  const double pixels = static_cast<double>(reference) * size - 0.5;
  *from = pixels > -1 && pixels < size ? static_cast<float>(static_cast<int>(pixels)) : 0.0f;
  *way = static_cast<float>(pixels - *from);
}

// The reference points of a tile's queries, place by place: ways in x and in y, pixels in x and in y.
inline void place_references(const ForwardCall& call, const Tile& tile, int64_t image, float* base) {
  const Problem& problem = call.problem;
  const int padded = call.places.padded;
  for (int row = 0; row < tile.rows; ++row) {
    for (int column = 0; column < tile.columns; ++column, base += 4 * padded) {
      const int64_t query = tile.first + row * tile.step + column;
      const float* reference = call.reference + image * call.reference_step + query * problem.levels * 2;
      for (int j = 0; j < call.places.count; ++j) {
        const float* centre = reference + j / problem.points * 2;
        split(centre[0], call.places.width[j], base + j, base + 2 * padded + j);
        split(centre[1], call.places.height[j], base + padded + j, base + 3 * padded + j);
      }
    }
  }
}

template <typename T, bool kFused>
inline void forward_tile(const ForwardCall& call, const Tile& tile, int64_t image, float* memory) {
  const Problem& problem = call.problem;
  const Places& places = call.places;
  const Scratch scratch = cut_scratch(memory, places.padded);
  const int64_t image_values = problem.positions * problem.heads * problem.channels;
  const int64_t total_places = problem.batch * problem.queries * problem.heads * places.count;
  if (kFused) place_references(call, tile, image, scratch.base);
  for (int64_t head = 0; head < problem.heads; ++head) {
    const T* value = static_cast<const T*>(call.value) + image * image_values + head * call.head_step;
    const float* base = scratch.base;
    for (int row = 0; row < tile.rows; ++row) {
      for (int column = 0; column < tile.columns; ++column, base += 4 * places.padded) {
        const int64_t query = tile.first + row * tile.step + column;
        const int64_t item = (image * problem.queries + query) * problem.heads + head;
        const int64_t place = item * places.count;
        const float* points = call.points + 2 * place;
        const float* weights = call.weights + place;
        T* target = static_cast<T*>(call.result) + item * problem.channels;
        prefetch(points, weights, target, problem, places.count);
        if (place + places.padded > total_places) {
          __builtin_memcpy(scratch.points, points, 2 * places.count * sizeof(float));
          __builtin_memcpy(scratch.weights, weights, places.count * sizeof(float));
          points = scratch.points;
          weights = scratch.weights;
        }
        const bool inside = prepare<kFused>(places, points, weights, base, scratch);
        const Source<T> source{value, call.pixel_step};
        if (inside) {
          sum_item<true>(places, scratch, source, target, problem.channels);
        } else {
          sum_item<false>(places, scratch, source, target, problem.channels);
        }
      }
    }
  }
}

inline void forward_any(const ForwardCall& call, const Tile& tile, int64_t image, float* scratch) {
  const bool fused = call.reference != nullptr;
  switch (call.format) {
    case Format::kFloat:
      return fused ? forward_tile<float, true>(call, tile, image, scratch)
                   : forward_tile<float, false>(call, tile, image, scratch);
    case Format::kBFloat16:
      return fused ? forward_tile<BFloat16Bits, true>(call, tile, image, scratch)
                   : forward_tile<BFloat16Bits, false>(call, tile, image, scratch);
    case Format::kHalf:
      return fused ? forward_tile<HalfBits, true>(call, tile, image, scratch)
                   : forward_tile<HalfBits, false>(call, tile, image, scratch);
  }
}

}  // namespace
}  // namespace openseg_r
