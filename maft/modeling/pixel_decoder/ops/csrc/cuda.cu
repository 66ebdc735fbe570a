// CUDA kernels of openseg_r::ms_deform_attn, registered under the dispatch key CUDA.
#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "tensors.h"

namespace openseg_r {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int64_t kMaxBlocks = 1 << 30;

// The tensors' device for torch's allocations and for this library's own copy of the CUDA runtime.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
    check(cudaSetDevice(index_));
  }

  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

  static void check(cudaError_t status) {
    if (status == cudaSuccess) return;
    std::string message = std::string("ms_deform_attn: CUDA kernel not launched: ") + cudaGetErrorString(status);
    if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion) {
      message += "; build again on this machine (make.sh --force), or with TORCH_CUDA_ARCH_LIST naming this GPU";
    }
    throw std::runtime_error(message);
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
};

int blocks_for(int64_t threads) {
  return static_cast<int>(std::min((threads + kThreads - 1) / kThreads, kMaxBlocks));
}

struct AtomicAdd {
  template <typename A>
  __device__ void operator()(A* target, A amount) const {
    atomicAdd(target, amount);
  }
};

// Sums a warp's parts of a place's gradient and lets its first lane write it.
template <typename A>
struct WarpFinish {
  A* grad_locations;
  A* grad_weights;
  int lane;

  __device__ static A sum(A part) {
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      part += __shfl_down_sync(0xffffffffu, part, distance);
    }
    return part;
  }

  __device__ void operator()(int64_t place, const PlaceGradient<A>& part) const {
    const A x = sum(part.x);
    const A y = sum(part.y);
    const A weight = sum(part.weight);
    if (lane == 0) {
      grad_locations[2 * place] = x;
      grad_locations[2 * place + 1] = y;
      grad_weights[place] = weight;
    }
  }
};

// One thread is one channel of one item; neighbouring threads read neighbouring channels.
template <typename T, typename A>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const Problem problem, const T* __restrict__ value, const A* __restrict__ locations,
                   const A* __restrict__ weights, T* __restrict__ result) {
  const int64_t total = problem.items() * problem.channels;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    A sum = 0;
    forward_item<T, A>(problem, i / problem.channels, i % problem.channels, 1, value, locations, weights, &sum);
    result[i] = static_cast<T>(sum);
  }
}

// One warp is one item, its lanes are channels; whole warps leave the loop together, as the shuffles need.
template <typename T, typename A>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const Problem problem, const T* __restrict__ grad, const T* __restrict__ value,
                    const A* __restrict__ locations, const A* __restrict__ weights, A* grad_value, A* grad_locations,
                    A* grad_weights) {
  const int lane = threadIdx.x % kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const WarpFinish<A> finish{grad_locations, grad_weights, lane};
  int64_t item = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  for (; item < problem.items(); item += step) {
    backward_item<T, A>(problem, item, lane, kWarp, 1, grad, value, locations, weights, grad_value, AtomicAdd{},
                        finish);
  }
}

Tensor forward(const Tensor& value, const std::vector<int64_t> spatial_shapes, const Tensor& sampling_locations,
               const Tensor& attention_weights) {
  const OnDevice device(value);
  const Inputs inputs = make_inputs(value, spatial_shapes, sampling_locations, attention_weights);
  const Tensor result = new_result(inputs);
  if (inputs.empty()) return result;
  with_type(value.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = SumOf<T>;
    const int blocks = blocks_for(inputs.problem.items() * inputs.problem.channels);
    forward_kernel<T, A><<<blocks, kThreads, 0, device.stream()>>>(
        inputs.problem, data<T>(inputs.value), data<A>(inputs.locations), data<A>(inputs.weights),
        mutable_data<T>(result));
  });
  OnDevice::check(cudaGetLastError());
  return result;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& value,
                                            const std::vector<int64_t> spatial_shapes,
                                            const Tensor& sampling_locations, const Tensor& attention_weights) {
  const OnDevice device(value);
  const Inputs inputs = make_inputs(value, spatial_shapes, sampling_locations, attention_weights);
  const Tensor upstream = check_grad(grad, inputs);
  const Gradients gradients(inputs);
  if (inputs.empty()) return gradients.as(value, sampling_locations, attention_weights);
  with_type(value.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = SumOf<T>;
    const int blocks = blocks_for(inputs.problem.items() * kWarp);
    backward_kernel<T, A><<<blocks, kThreads, 0, device.stream()>>>(
        inputs.problem, data<T>(upstream), data<T>(inputs.value), data<A>(inputs.locations), data<A>(inputs.weights),
        mutable_data<A>(gradients.value), mutable_data<A>(gradients.locations), mutable_data<A>(gradients.weights));
  });
  OnDevice::check(cudaGetLastError());
  return gradients.as(value, sampling_locations, attention_weights);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(openseg_r, CUDA, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&forward));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&backward));
}

}  // namespace openseg_r
