// CPU kernels of openseg_r::ms_deform_attn, registered under the dispatch key CPU, and the backward pass.
#include "cpu_forward.h"

namespace openseg_r {
namespace {

struct PlainAdd {
  template <typename A>
  void operator()(A* target, A amount) const {
    *target += amount;
  }
};

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& value,
                                            const std::vector<int64_t> spatial_shapes,
                                            const Tensor& sampling_locations, const Tensor& attention_weights) {
  const Inputs inputs = make_inputs(value, spatial_shapes, sampling_locations, attention_weights);
  const Tensor upstream = check_grad(grad, inputs);
  const Gradients gradients(inputs);
  if (inputs.empty()) return gradients.as(value, sampling_locations, attention_weights);
  with_type(value.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = SumOf<T>;
    const Problem& problem = inputs.problem;
    const T* rows = data<T>(upstream);
    const T* source = data<T>(inputs.value);
    const A* locations = data<A>(inputs.locations);
    const A* weights = data<A>(inputs.weights);
    A* grad_value = mutable_data<A>(gradients.value);
    A* grad_locations = mutable_data<A>(gradients.locations);
    A* grad_weights = mutable_data<A>(gradients.weights);
    const auto finish = [&](int64_t place, const PlaceGradient<A>& total) {
      grad_locations[2 * place] = total.x;
      grad_locations[2 * place + 1] = total.y;
      grad_weights[place] = total.weight;
    };
    // One task is one head of one image: queries share pixels, heads do not, so no two tasks add to the same element.
    torch::stable::parallel_for(0, problem.batch * problem.heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first_item = task / problem.heads * problem.queries * problem.heads + task % problem.heads;
        for (int64_t query = 0; query < problem.queries; ++query) {
          backward_item<T, A>(problem, first_item + query * problem.heads, 0, problem.channels, problem.channels, rows,
                              source, locations, weights, grad_value, PlainAdd{}, finish);
        }
      }
    });
  });
  return gradients.as(value, sampling_locations, attention_weights);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(openseg_r, CPU, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&forward));
  library.impl("ms_deform_attn_fused", TORCH_BOX(&forward_fused));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&backward));
}

}  // namespace openseg_r
