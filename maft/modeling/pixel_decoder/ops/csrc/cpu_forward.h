// The CPU operators' forward passes, see cpu_forward.cpp.
#pragma once

#include "tensors.h"

namespace openseg_r {

Tensor forward(const Tensor& value, const std::vector<int64_t> spatial_shapes, const Tensor& sampling_locations,
               const Tensor& attention_weights);

Tensor forward_fused(const Tensor& value, const std::vector<int64_t> spatial_shapes, const Tensor& reference_points,
                     const Tensor& sampling_offsets, const Tensor& attention_logits);

}  // namespace openseg_r
