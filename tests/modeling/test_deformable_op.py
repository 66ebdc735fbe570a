"""The deformable-attention operator against its formula, on whatever kernel serves it.

test_deformable_build.py runs this file again on the plain and on a freshly built compiled kernel.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from maft.modeling.pixel_decoder.ops import MSDeformAttn, active_backend, ms_deform_attn, ms_deform_attn_plain

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
IMPLEMENTATIONS = [ms_deform_attn, ms_deform_attn_plain]
# Rounding of the result to its dtype; sums are formed in float32 or better.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SHAPES = [(6, 4), (3, 2), (1, 5)]

device_parameter = pytest.mark.parametrize("device", DEVICES)
dtype_parameter = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda dtype: str(dtype).split(".")[1])
implementation_parameter = pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=["operator", "plain"])


def make_problem(
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    *,
    shapes: list[tuple[int, int]] | None = None,
    batch: int = 2,
    queries: int = 7,
    heads: int = 3,
    dim: int = 5,
    points: int = 4,
    seed: int = 0,
) -> tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]:
    """Random inputs; a third of the locations lie outside, in every direction."""
    shapes = shapes or SHAPES
    generator = torch.Generator().manual_seed(seed)
    positions = sum(height * width for height, width in shapes)
    value = torch.randn(batch, positions, heads, dim, generator=generator)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=generator) * 1.5 - 0.25
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=generator)
    return value.to(device, dtype), shapes, locations.to(device, dtype), weights.to(device, dtype)


def formula(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> np.ndarray:
    """Equation 3 of Deformable DETR, one element at a time, in float64."""
    v, x, w = (tensor.detach().cpu().double().numpy() for tensor in (value, locations, weights))
    batch, queries, heads, levels, points, _ = x.shape
    result = np.zeros((batch, queries, heads, v.shape[3]))
    starts = np.cumsum([0] + [height * width for height, width in shapes])
    for b, q, h, level, p in np.ndindex(batch, queries, heads, levels, points):
        height, width = shapes[level]
        column = x[b, q, h, level, p, 0] * width - 0.5
        row = x[b, q, h, level, p, 1] * height - 0.5
        for j in range(math.floor(row), math.floor(row) + 2):
            for i in range(math.floor(column), math.floor(column) + 2):
                if 0 <= j < height and 0 <= i < width:
                    share = (1 - abs(row - j)) * (1 - abs(column - i)) * w[b, q, h, level, p]
                    result[b, q, h] += share * v[b, starts[level] + j * width + i, h]
    return result.reshape(batch, queries, -1)


def relative_error(found: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> float:
    found, expected = (torch.as_tensor(x).detach().cpu().double() for x in (found, expected))
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


@device_parameter
@dtype_parameter
@implementation_parameter
def test_equals_the_formula(implementation, dtype, device):
    problem = make_problem(dtype, device)
    result = implementation(*problem)
    assert result.dtype == dtype and result.device.type == device and result.is_contiguous()
    assert relative_error(result, formula(*problem)) < TOLERANCE[dtype]


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
    sizes=st.tuples(*[st.integers(1, 4) for _ in range(5)]),
    seed=st.integers(0, 1000),
)
def test_equals_the_formula_at_any_size(shapes, sizes, seed):
    batch, queries, heads, dim, points = sizes
    problem = make_problem(
        torch.float64,
        shapes=shapes,
        batch=batch,
        queries=queries,
        heads=heads,
        dim=dim,
        points=points,
        seed=seed,
    )
    expected = formula(*problem)
    np.testing.assert_allclose(ms_deform_attn(*problem).numpy(), expected, atol=1e-12)


@device_parameter
@implementation_parameter
@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ((1 / 6, 1 / 4), 1.0),  # the centre of the first pixel
        ((5 / 6, 3 / 4), 6.0),  # of the last
        ((1 / 2, 1 / 2), 3.5),  # between 2 and 5
        ((1 / 3, 1 / 2), 3.0),  # amid 1, 2, 4, 5
        ((0.0, 0.0), 0.25),  # the corner: three of four pixels outside
        ((1.0, 1.0), 1.5),
        ((0.0, 1 / 4), 0.5),  # the left edge
        ((-1 / 6, 1 / 4), 0.0),  # one pixel outside: weight nought
        ((-1 / 12, 1 / 4), 0.25),
        ((7 / 6, 1 / 4), 0.0),
        ((1 / 2, 1.2), 0.5),  # 0.1 levels below the last row's reach: 5 * 0.1
        ((1e30, 0.5), 0.0),
        ((-1e30, 0.5), 0.0),
    ],
)
def test_hand_computed_locations(implementation, device, location, expected):
    value = torch.arange(1.0, 7.0, device=device).reshape(1, 6, 1, 1)  # rows 1 2 3 and 4 5 6
    locations = torch.tensor(location, device=device).reshape(1, 1, 1, 1, 1, 2)
    result = implementation(value, [(2, 3)], locations, torch.ones(1, 1, 1, 1, 1, device=device))
    assert result.item() == pytest.approx(expected, abs=1e-5)


@implementation_parameter
@pytest.mark.parametrize("coordinate", [0, 1])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_location_that_is_no_number_shows(implementation, wrong, coordinate):
    value, shapes, locations, weights = make_problem()
    locations[0, 3, 1, 0, 2, coordinate] = wrong
    result = implementation(value, shapes, locations, weights).isnan().unflatten(-1, (3, 5))
    assert result[0, 3, 1].all()
    assert result.sum() == 5


@device_parameter
@dtype_parameter
def test_gradients_equal_those_of_plain_pytorch(dtype, device):
    value, shapes, locations, weights = make_problem(dtype, device, dim=37)  # more channels than a warp has lanes
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    found = ms_deform_attn(value, shapes, locations, weights)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    expected = ms_deform_attn_plain(value, shapes, locations, weights)
    gradients = torch.autograd.grad(found, leaves, upstream)
    references = torch.autograd.grad(expected, leaves, upstream)
    for gradient, reference, leaf in zip(gradients, references, leaves, strict=True):
        assert gradient.dtype == leaf.dtype and gradient.shape == leaf.shape
        assert relative_error(gradient, reference) < TOLERANCE[dtype]


@device_parameter
@implementation_parameter
def test_gradcheck(implementation, device):
    value, shapes, locations, weights = make_problem(torch.float64, device, queries=3, heads=2, dim=3, points=2)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    # Atomic additions come in any order, so two CUDA runs differ in the last bits.
    assert torch.autograd.gradcheck(lambda v, x, w: implementation(v, shapes, x, w), leaves, nondet_tol=1e-12)


def test_second_derivative_is_refused():
    value, shapes, locations, weights = make_problem()
    value.requires_grad_()
    result = ms_deform_attn(value, shapes, locations, weights)
    (gradient,) = torch.autograd.grad(result.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()


@device_parameter
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_value_with_float32_locations(dtype, device):
    value, shapes, locations, weights = make_problem(torch.float32, device)
    value = value.to(dtype).requires_grad_()
    locations.requires_grad_()
    result = ms_deform_attn(value, shapes, locations, weights)
    assert result.dtype == dtype
    assert relative_error(result, formula(value, shapes, locations, weights)) < TOLERANCE[dtype]
    result.sum().backward()
    assert value.grad.dtype == dtype and locations.grad.dtype == torch.float32


@device_parameter
@implementation_parameter
def test_non_contiguous_inputs(implementation, device):
    value, shapes, locations, weights = make_problem(device=device)
    expected = implementation(value, shapes, locations, weights)
    value = value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    locations = torch.stack((locations, locations), dim=-1)[..., 0]
    weights = weights.transpose(1, 4).contiguous().transpose(1, 4)
    assert not (value.is_contiguous() or locations.is_contiguous() or weights.is_contiguous())
    assert torch.equal(implementation(value, shapes, locations, weights), expected)
    value.requires_grad_()
    implementation(value, shapes, locations, weights).sum().backward()  # an expanded gradient, of strides 0
    assert value.grad.isfinite().all()


@device_parameter
@implementation_parameter
@pytest.mark.parametrize("empty", ["queries", "batch", "dim", "points"])
def test_empty_inputs(implementation, device, empty):
    value, shapes, locations, weights = make_problem(device=device, **{empty: 0})
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    result = implementation(value, shapes, locations, weights)
    assert result.shape == (value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    assert not result.any()
    if implementation is ms_deform_attn:
        for gradient, leaf in zip(torch.autograd.grad(result.sum(), leaves), leaves, strict=True):
            assert gradient.shape == leaf.shape and not gradient.any()


WRONG = [
    (lambda v, s, x, w: (v.flatten(2), s, x, w), r"value must be \(batch, positions, heads, .*got \(2, 35, 15\)"),
    (lambda v, s, x, w: (v, s[:2], x, w), r"value holds 35 positions, but the levels \[6, 4, 3, 2\] hold 30"),
    (lambda v, s, x, w: (v, [], x, w), "spatial_shapes must hold height and width of each level"),
    (lambda v, s, x, w: (v, [*s, (0, 3)], x, w), r"sampling_locations must be .* 4 levels"),
    (lambda v, s, x, w: (v, [(1, 1)] * 35, x, w), "at most 16 levels, got 35"),
    (lambda v, s, x, w: (v, s, x[..., :1], w), "sampling_locations must be"),
    (lambda v, s, x, w: (v, s, x, w[:, :-1]), r"attention_weights \(2, 6, 3, 3, 4\) do not match"),
    (lambda v, s, x, w: (v[:1], s, x, w), "do not match batch and heads of value"),
    (lambda v, s, x, w: (v[:, :, :2], s, x, w), "do not match batch and heads of value"),
    (lambda v, s, x, w: (v, s, x.double(), w), "sampling_locations is torch.float64, which does not go with"),
    (lambda v, s, x, w: (v, s, x, w.half()), "attention_weights is torch.float16, which does not go with"),
    (lambda v, s, x, w: (v.long(), s, x, w), "value must be float16, bfloat16, float32 or float64, got torch.int64"),
    (lambda v, s, x, w: (v, s, x.to("meta"), w), "sampling_locations is on meta, value on cpu"),
]


@implementation_parameter
@pytest.mark.parametrize(("spoil", "message"), WRONG)
def test_inputs_that_do_not_fit(implementation, spoil, message):
    with pytest.raises(ValueError, match=message) as caught:
        implementation(*spoil(*make_problem()))
    assert "\n" not in str(caught.value)


@device_parameter
@pytest.mark.parametrize(("spoil", "message"), WRONG[:1] + WRONG[2:8] + WRONG[11:12])
def test_the_operator_itself_refuses_what_does_not_fit(spoil, message, device):
    """Called without the Python function in front, it still touches no memory that is not its own."""
    value, shapes, locations, weights = spoil(*make_problem(device=device))
    flat = [size for shape in shapes for size in shape]
    with pytest.raises((ValueError, RuntimeError), match="ms_deform_attn"):
        torch.ops.openseg_r.ms_deform_attn(value, flat, locations, weights)


def test_the_backward_operator_refuses_a_gradient_of_another_shape():
    value, shapes, locations, weights = make_problem()
    flat = [size for shape in shapes for size in shape]
    with pytest.raises((ValueError, RuntimeError), match="ms_deform_attn_backward"):
        torch.ops.openseg_r.ms_deform_attn_backward(torch.ones(2, 6, 15), value, flat, locations, weights)


@device_parameter
@dtype_parameter
def test_opcheck(dtype, device):
    value, shapes, locations, weights = make_problem(dtype, device)
    flat = [size for shape in shapes for size in shape]
    grad = torch.ones_like(ms_deform_attn(value, shapes, locations, weights))
    # CUDA sums by atomic additions, so opcheck's two runs agree to rounding only.
    tolerance = {"atol": 5 * TOLERANCE[dtype], "rtol": 5 * TOLERANCE[dtype]}
    torch.library.opcheck(
        torch.ops.openseg_r.ms_deform_attn_backward, (grad, value, flat, locations, weights), **tolerance
    )
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    torch.library.opcheck(torch.ops.openseg_r.ms_deform_attn, (leaves[0], flat, *leaves[1:]), **tolerance)


class Pyramid(nn.Module):
    """Two feature maps in, attended positions out: what a pixel decoder does with the module."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = MSDeformAttn(16, n_levels=2, n_heads=4, n_points=3)

    def forward(self, fine: Tensor, coarse: Tensor, reference: Tensor) -> Tensor:
        shapes = [(x.shape[-2], x.shape[-1]) for x in (fine, coarse)]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in (fine, coarse)], dim=1)
        return self.attention(tokens, reference, tokens, shapes)

    @staticmethod
    def inputs(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(height)
        fine = torch.randn(2, 16, 2 * height, 2 * width, generator=generator)
        coarse = torch.randn(2, 16, height, width, generator=generator)
        return fine, coarse, torch.rand(1, 5 * height * width, 2, 2, generator=generator)


@device_parameter
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(device, dynamic):
    torch.manual_seed(0)
    model = Pyramid().to(device)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((3, 2), (4, 5)):
        inputs = [x.to(device).requires_grad_() for x in model.inputs(*size)]
        expected = torch.autograd.grad(model(*inputs).square().sum(), inputs)
        result = compiled(*inputs)
        assert relative_error(result, model(*inputs)) < 1e-6
        for found, reference in zip(torch.autograd.grad(result.square().sum(), inputs), expected, strict=True):
            assert relative_error(found, reference) < 1e-5


def test_exports_and_runs_at_other_sizes():
    torch.manual_seed(0)
    model = Pyramid().eval()
    height, width = torch.export.Dim("height", min=2), torch.export.Dim("width", min=2)
    sizes = ({2: 2 * height, 3: 2 * width}, {2: height, 3: width}, {1: torch.export.Dim.AUTO})
    program = torch.export.export(model, model.inputs(3, 2), dynamic_shapes=sizes)
    assert any(node.target is torch.ops.openseg_r.ms_deform_attn.default for node in program.graph.nodes)
    for size in ((3, 2), (5, 7)):
        inputs = model.inputs(*size)
        assert torch.equal(program.module()(*inputs), model(*inputs))


@device_parameter
def test_module_is_the_papers_formula(device):
    torch.manual_seed(0)
    module = MSDeformAttn(12, n_levels=3, n_heads=3, n_points=4).to(device)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    query, memory = torch.randn(2, 7, 12, device=device), torch.randn(2, 35, 12, device=device)
    reference = torch.rand(1, 7, 3, 2, device=device)
    offsets = module.sampling_offsets(query).reshape(2, 7, 3, 3, 4, 2)
    sizes = torch.tensor([(width, height) for height, width in SHAPES], device=device)
    locations = reference[:, :, None, :, None] + offsets / sizes[:, None]
    weights = module.attention_weights(query).reshape(2, 7, 3, 12).exp()
    weights = (weights / weights.sum(-1, keepdim=True)).reshape(2, 7, 3, 3, 4)
    attended = formula(module.value_proj(memory).reshape(2, 35, 3, 4), SHAPES, locations, weights)
    expected = module.output_proj(torch.from_numpy(attended).to(device, torch.float32))
    assert relative_error(module(query, reference, memory, SHAPES), expected) < 1e-5


def test_module_names_and_start():
    module = MSDeformAttn(256, n_levels=3, n_heads=8, n_points=4)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert shapes == {
        "sampling_offsets.weight": (192, 256),
        "sampling_offsets.bias": (192,),
        "attention_weights.weight": (96, 256),
        "attention_weights.bias": (96,),
        "value_proj.weight": (256, 256),
        "value_proj.bias": (256,),
        "output_proj.weight": (256, 256),
        "output_proj.bias": (256,),
    }
    offsets = module.sampling_offsets.bias.detach().reshape(8, 3, 4, 2)
    neighbours = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(neighbours):
        for point in range(4):
            expected = torch.tensor(direction, dtype=torch.float32) * (point + 1)
            torch.testing.assert_close(offsets[head, :, point], expected.expand(3, 2), atol=1e-5, rtol=0)
    for zeroed in (module.sampling_offsets.weight, module.attention_weights.weight, module.attention_weights.bias):
        assert not zeroed.any()
    assert module.value_proj.weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.05)


def test_module_under_autocast_places_points_in_float32():
    torch.manual_seed(0)
    module = MSDeformAttn(64, n_levels=1, n_heads=8, n_points=4)
    query = torch.randn(1, 200, 64)
    reference = torch.rand(1, 200, 1, 2)
    memory = torch.randn(1, 100 * 100, 64)
    expected = module(query, reference, memory, [(100, 100)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = module(query, reference, memory, [(100, 100)])
    assert result.dtype == torch.bfloat16
    # bfloat16 locations on a map of 100 pixels would be a quarter of a pixel off, an error of 10% and more.
    assert relative_error(result, expected) < 0.015


def test_module_errors():
    with pytest.raises(ValueError, match="d_model 10 is not a multiple of n_heads 4"):
        MSDeformAttn(10, n_levels=1, n_heads=4, n_points=1)
    with pytest.raises(ValueError, match="2 levels, but 1 spatial shapes"):
        Pyramid().attention(torch.ones(1, 4, 16), torch.ones(1, 4, 2, 2), torch.ones(1, 4, 16), [(2, 2)])


def test_forced_kernel_is_the_one_that_serves():
    expected = {"plain": ("plain",), "compiled": ("cpu-compiled",)}
    assert active_backend("cpu") in expected.get(os.environ.get("OPENSEG_R_OP", ""), ("plain", "cpu-compiled"))
