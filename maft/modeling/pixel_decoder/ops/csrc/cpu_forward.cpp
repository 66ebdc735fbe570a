// Forward passes on the CPU: which kernel, which order of queries, and float64, which is summed without vectors.
#include "cpu_forward.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "forward.h"

namespace openseg_r {
namespace {

struct InstructionSet {
  const char* name;
  ForwardKernel kernel;
  bool supported;
};

// Best first.
std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  sets.push_back({"avx512", &forward_avx512, avx512});
  sets.push_back({"avx2", &forward_avx2, avx2});
#endif
  sets.push_back({"portable", &forward_portable, true});
  return sets;
}

// The best that the processor has, or the one that OPENSEG_R_OP_INSTRUCTIONS names.
InstructionSet choose_instruction_set() {
  static const std::vector<InstructionSet> sets = instruction_sets();
  const char* wanted = std::getenv("OPENSEG_R_OP_INSTRUCTIONS");
  std::string known;
  for (const InstructionSet& set : sets) {
    if (!set.supported) continue;
    if (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, set.name) == 0) return set;
    known += known.empty() ? set.name : std::string(", ") + set.name;
  }
  throw std::runtime_error(std::string("OPENSEG_R_OP_INSTRUCTIONS=") + wanted + ": this processor has " + known +
                           "; name one of these, or unset it for the best");
}

// The tables behind Places.
class PlaceTables {
 public:
  PlaceTables(const Problem& problem, int64_t pixel_step)
      : count_(problem.levels * problem.points),
        padded_((count_ + kMaxLanes - 1) / kMaxLanes * kMaxLanes),
        size_(2 * padded_),
        integers_(4 * padded_),
        below_(padded_) {
    for (int j = 0; j < count_; ++j) {
      const Level& level = problem.level[j / problem.points];
      size_[j] = static_cast<float>(level.width);
      size_[padded_ + j] = static_cast<float>(level.height);
      integers_[j] = level.width;
      integers_[padded_ + j] = level.height;
      integers_[2 * padded_ + j] = static_cast<int32_t>(level.start);
      integers_[3 * padded_ + j] = -1;
      below_[j] = level.width * pixel_step;
    }
  }

  Places view() const {
    const int32_t* integers = integers_.data();
    return {count_,          padded_,
            size_.data(),    size_.data() + padded_,
            integers,        integers + padded_,
            integers + 2 * padded_, integers + 3 * padded_,
            below_.data()};
  }

 private:
  int count_;
  int padded_;
  std::vector<float> size_;
  std::vector<int32_t> integers_;
  std::vector<int64_t> below_;
};

// In self-attention queries are the pixels of the levels, and square tiles read neighbouring pixels; other queries are
// taken as they come.
std::vector<Tile> make_tiles(const Problem& problem) {
  std::vector<Tile> tiles;
  if (problem.queries != problem.positions) {
    for (int64_t first = 0; first < problem.queries; first += kTileQueries) {
      const int64_t left = problem.queries - first;
      tiles.push_back({first, 0, 1, static_cast<int>(std::min<int64_t>(kTileQueries, left))});
    }
    return tiles;
  }
  for (int l = 0; l < problem.levels; ++l) {
    const Level& level = problem.level[l];
    for (int row = 0; row < level.height; row += kTileSide) {
      for (int column = 0; column < level.width; column += kTileSide) {
        tiles.push_back({level.start + static_cast<int64_t>(row) * level.width + column, level.width,
                         std::min(kTileSide, level.height - row), std::min(kTileSide, level.width - column)});
      }
    }
  }
  return tiles;
}

Format format_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return Format::kFloat;
    case ScalarType::BFloat16:
      return Format::kBFloat16;
    case ScalarType::Half:
      return Format::kHalf;
    default:
      throw std::runtime_error("ms_deform_attn: value must be float16, bfloat16, float32 or float64");
  }
}

void run(const Inputs& inputs, const Tensor& result, const Tensor* reference) {
  const Problem& problem = inputs.problem;
  require(problem.positions <= std::numeric_limits<int32_t>::max(), "ms_deform_attn: too many positions");
  const InstructionSet set = choose_instruction_set();
  // A pixel of one head is followed by its other heads: read in place, what one head samples falls on an eighth (with 8
  // heads) of the cache's sets and is soon driven out. A copy head by head pays where values are read often enough.
  const bool by_head = problem.heads > 1 && problem.queries * problem.levels * problem.points >= problem.positions;
  const Tensor value = by_head ? torch::stable::contiguous(torch::stable::transpose(inputs.value, 1, 2)) : inputs.value;
  ForwardCall call{};
  call.pixel_step = by_head ? problem.channels : problem.heads * problem.channels;
  call.head_step = by_head ? problem.positions * problem.channels : problem.channels;
  const PlaceTables tables(problem, call.pixel_step);
  call.problem = problem;
  call.places = tables.view();
  call.format = format_of(inputs.value.scalar_type());
  call.value = value.const_data_ptr();
  call.result = result.mutable_data_ptr();
  call.points = data<float>(inputs.locations);
  call.weights = data<float>(inputs.weights);
  if (reference != nullptr) {
    call.reference = data<float>(*reference);
    call.reference_step = reference->size(0) == 1 ? 0 : problem.queries * problem.levels * 2;
  }
  const std::vector<Tile> tiles = make_tiles(problem);
  const int64_t per_image = static_cast<int64_t>(tiles.size());
  torch::stable::parallel_for(0, problem.batch * per_image, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(kScratchPerPlace * call.places.padded);
    for (int64_t task = begin; task < end; ++task) {
      set.kernel(call, tiles[task % per_image], task / per_image, scratch.data());
    }
  });
}

void run_float64(const Problem& problem, const Tensor& value, const double* locations, const double* weights,
                 const Tensor& result) {
  const double* source = data<double>(value);
  double* target = mutable_data<double>(result);  // zeros
  torch::stable::parallel_for(0, problem.items(), kTileQueries, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      forward_item<double, double>(problem, item, 0, problem.channels, source, locations, weights,
                                   target + item * problem.channels);
    }
  });
}

// Softmax and sampling locations of the fused operator in float64, which exists for checks and need not be fast.
void run_fused_float64(const Inputs& inputs, const Tensor& reference, const Tensor& result) {
  const Problem& problem = inputs.problem;
  const int64_t places = static_cast<int64_t>(problem.levels) * problem.points;
  const int64_t shared = reference.size(0) == 1;
  const double* offsets = data<double>(inputs.locations);
  const double* logits = data<double>(inputs.weights);
  const double* centres = data<double>(reference);
  std::vector<double> locations(problem.items() * places * 2);
  std::vector<double> weights(problem.items() * places);
  for (int64_t item = 0; item < problem.items(); ++item) {
    const int64_t query = item / problem.heads % (shared ? problem.queries : problem.batch * problem.queries);
    const int64_t first = item * places;
    double top = -std::numeric_limits<double>::infinity();
    double sum = 0;
    for (int64_t j = first; j < first + places; ++j) top = std::max(top, logits[j]);
    for (int64_t j = first; j < first + places; ++j) sum += weights[j] = std::exp(logits[j] - top);
    for (int64_t j = first; j < first + places; ++j) {
      const int64_t level = (j - first) / problem.points;
      const double* centre = centres + (query * problem.levels + level) * 2;
      weights[j] /= sum;
      locations[2 * j] = centre[0] + offsets[2 * j] / problem.level[level].width;
      locations[2 * j + 1] = centre[1] + offsets[2 * j + 1] / problem.level[level].height;
    }
  }
  run_float64(problem, inputs.value, locations.data(), weights.data(), result);
}

}  // namespace

Tensor forward(const Tensor& value, const std::vector<int64_t> spatial_shapes, const Tensor& sampling_locations,
               const Tensor& attention_weights) {
  const Inputs inputs = make_inputs(value, spatial_shapes, sampling_locations, attention_weights);
  const bool wide = value.scalar_type() == ScalarType::Double;
  const Tensor result = wide || inputs.empty() ? new_result(inputs) : new_uninitialised_result(inputs);
  if (inputs.empty()) return result;
  if (wide) {
    run_float64(inputs.problem, inputs.value, data<double>(inputs.locations), data<double>(inputs.weights), result);
  } else {
    run(inputs, result, nullptr);
  }
  return result;
}

Tensor forward_fused(const Tensor& value, const std::vector<int64_t> spatial_shapes, const Tensor& reference_points,
                     const Tensor& sampling_offsets, const Tensor& attention_logits) {
  const Inputs inputs = make_inputs(value, spatial_shapes, sampling_offsets, attention_logits);
  const Tensor reference = check_reference(reference_points, inputs);
  const bool wide = value.scalar_type() == ScalarType::Double;
  const Tensor result = wide || inputs.empty() ? new_result(inputs) : new_uninitialised_result(inputs);
  if (inputs.empty()) return result;
  if (wide) {
    run_fused_float64(inputs, reference, result);
  } else {
    run(inputs, result, &reference);
  }
  return result;
}

}  // namespace openseg_r

// The name of the instruction set that the next call uses, or null where the one asked for is not there.
extern "C" __attribute__((visibility("default"))) const char* openseg_r_instructions() {
  try {
    return openseg_r::choose_instruction_set().name;
  } catch (const std::exception&) {
    return nullptr;
  }
}
