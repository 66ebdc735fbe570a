// From torch's tensors (stable ABI) to the problem of sampling.h: checks, contiguity, dtypes.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <vector>

#include "sampling.h"

namespace openseg_r {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
using SumOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Guards memory against direct calls of the operator; the Python function says in detail what does not fit.
inline void require(bool holds, const char* message) {
  if (!holds) throw std::runtime_error(message);
}

inline ScalarType sum_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor dense(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::contiguous(torch::stable::to(tensor, dtype));
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

struct Inputs {
  Problem problem;
  Tensor value;      // (B, S, heads, channels), contiguous
  Tensor locations;  // (B, Q, heads, levels, points, 2), contiguous, dtype of sums
  Tensor weights;    // (B, Q, heads, levels, points), contiguous, dtype of sums

  bool empty() const { return problem.items() == 0 || problem.channels == 0; }
};

inline Problem make_problem(const Tensor& value, const std::vector<int64_t>& shapes, const Tensor& locations,
                            const Tensor& weights) {
  require(value.dim() == 4, "ms_deform_attn: value must be (batch, positions, heads, channels)");
  require(locations.dim() == 6 && locations.size(5) == 2,
          "ms_deform_attn: sampling_locations must be (batch, queries, heads, levels, points, 2)");
  require(weights.dim() == 5, "ms_deform_attn: attention_weights must be (batch, queries, heads, levels, points)");
  for (int i = 0; i < 5; ++i) {
    require(weights.size(i) == locations.size(i),
            "ms_deform_attn: attention_weights and sampling_locations differ in shape");
  }
  require(locations.size(0) == value.size(0) && locations.size(2) == value.size(2),
          "ms_deform_attn: batch or heads of sampling_locations and value differ");
  require(shapes.size() == 2 * static_cast<size_t>(locations.size(3)),
          "ms_deform_attn: spatial_shapes must hold height and width of every level");
  require(locations.size(3) >= 1 && locations.size(3) <= kMaxLevels,
          "ms_deform_attn: the compiled kernel takes 1 to 16 levels");
  require(locations.size(4) <= std::numeric_limits<int>::max(), "ms_deform_attn: too many points");

  Problem problem{};
  problem.batch = value.size(0);
  problem.positions = value.size(1);
  problem.heads = value.size(2);
  problem.channels = value.size(3);
  problem.queries = locations.size(1);
  problem.levels = static_cast<int>(locations.size(3));
  problem.points = static_cast<int>(locations.size(4));
  int64_t start = 0;
  for (int l = 0; l < problem.levels; ++l) {
    const int64_t height = shapes[2 * l];
    const int64_t width = shapes[2 * l + 1];
    require(height >= 0 && width >= 0 && height <= std::numeric_limits<int>::max() &&
                width <= std::numeric_limits<int>::max(),
            "ms_deform_attn: a level's height or width is out of range");
    problem.level[l] = {static_cast<int>(height), static_cast<int>(width), start};
    start += height * width;
  }
  require(start == problem.positions, "ms_deform_attn: the levels' positions do not sum to value's");
  return problem;
}

inline Inputs make_inputs(const Tensor& value, const std::vector<int64_t>& shapes, const Tensor& locations,
                          const Tensor& weights) {
  const bool same_device = locations.device() == value.device() && weights.device() == value.device();
  require(same_device, "ms_deform_attn: value, sampling_locations and attention_weights are on different devices");
  const ScalarType dtype = sum_dtype(value.scalar_type());
  return {make_problem(value, shapes, locations, weights), torch::stable::contiguous(value), dense(locations, dtype),
          dense(weights, dtype)};
}

inline Tensor new_result(const Inputs& inputs) {
  const Problem& p = inputs.problem;
  const std::vector<int64_t> shape{p.batch, p.queries, p.heads * p.channels};
  return torch::stable::new_zeros(inputs.value, shape);
}

inline Tensor new_uninitialised_result(const Inputs& inputs) {
  const Problem& p = inputs.problem;
  const std::vector<int64_t> shape{p.batch, p.queries, p.heads * p.channels};
  return torch::stable::new_empty(inputs.value, shape);
}

// The fused operator's reference points: dense, in the dtype of sums.
inline Tensor check_reference(const Tensor& reference, const Inputs& inputs) {
  const Problem& p = inputs.problem;
  require(reference.dim() == 4 && (reference.size(0) == p.batch || reference.size(0) == 1) &&
              reference.size(1) == p.queries && reference.size(2) == p.levels && reference.size(3) == 2 &&
              reference.device() == inputs.value.device(),
          "ms_deform_attn_fused: reference_points must be (batch or 1, queries, levels, 2) on value's device");
  return dense(reference, sum_dtype(inputs.value.scalar_type()));
}

inline Tensor check_grad(const Tensor& grad, const Inputs& inputs) {
  const Problem& p = inputs.problem;
  require(grad.dim() == 3 && grad.size(0) == p.batch && grad.size(1) == p.queries &&
              grad.size(2) == p.heads * p.channels && grad.device() == inputs.value.device(),
          "ms_deform_attn_backward: grad must be (batch, queries, heads * channels) on value's device");
  return dense(grad, inputs.value.scalar_type());
}

// Gradient buffers in the dtype of sums, zeroed; each is cast to its input's dtype when it is complete.
struct Gradients {
  Tensor value;
  Tensor locations;
  Tensor weights;

  explicit Gradients(const Inputs& inputs)
      : value(torch::stable::new_zeros(inputs.value, inputs.value.sizes(), sum_dtype(inputs.value.scalar_type()))),
        locations(torch::stable::new_zeros(inputs.locations, inputs.locations.sizes())),
        weights(torch::stable::new_zeros(inputs.weights, inputs.weights.sizes())) {}

  std::tuple<Tensor, Tensor, Tensor> as(const Tensor& like_value, const Tensor& like_locations,
                                        const Tensor& like_weights) const {
    return {torch::stable::to(value, like_value.scalar_type()),
            torch::stable::to(locations, like_locations.scalar_type()),
            torch::stable::to(weights, like_weights.scalar_type())};
  }
};

template <typename T>
struct Tag {
  using type = T;
};

// Call `body` with a Tag of the C++ type of `dtype`.
template <typename Body>
void with_type(ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(Tag<float>{});
    case ScalarType::Double:
      return body(Tag<double>{});
    case ScalarType::Half:
      return body(Tag<torch::headeronly::Half>{});
    case ScalarType::BFloat16:
      return body(Tag<torch::headeronly::BFloat16>{});
    default:
      throw std::runtime_error("ms_deform_attn: value must be float16, bfloat16, float32 or float64");
  }
}

}  // namespace openseg_r
