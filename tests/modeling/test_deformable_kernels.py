"""The CPU kernel of each instruction set, and the fused operator on whatever kernel serves it.

Held to plain PyTorch in float64, which test_deformable_op.py holds to the formula. test_deformable_build.py runs this
file again on the plain and on a freshly built compiled kernel.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maft.errors import UserError
from maft.modeling.grids import cell_centres
from maft.modeling.pixel_decoder.ops import (
    MSDeformAttn,
    active_backend,
    backend,
    fused,
    ms_deform_attn,
    ms_deform_attn_fused,
    ms_deform_attn_plain,
)

VARIABLE = "OPENSEG_R_OP_INSTRUCTIONS"
SHAPES = [(6, 4), (3, 2), (1, 5)]
# Rounding of the result to its dtype; sums are formed in float32 or better.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 2.5e-3}

dtype_parameter = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda dtype: str(dtype).split(".")[1])


@pytest.fixture(params=["portable", "avx2", "avx512"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this processor has, forced upon the compiled kernel."""
    if active_backend("cpu") == "plain":
        pytest.skip("no compiled kernel")
    monkeypatch.setenv(VARIABLE, request.param)
    try:
        assert backend.cpu_instructions() == request.param
    except UserError as error:
        pytest.skip(str(error))
    return str(request.param)


def inputs(
    shapes: list[tuple[int, int]] = SHAPES,
    *,
    batch: int = 2,
    queries: int = 9,
    heads: int = 3,
    dim: int = 5,
    points: int = 4,
    shared: bool = True,
    seed: int = 0,
) -> tuple[Tensor, list[tuple[int, int]], Tensor, Tensor, Tensor]:
    """Arguments of the fused operator, in float64 with values that float32 holds; some points lie outside."""
    generator = torch.Generator().manual_seed(seed)
    levels, positions = len(shapes), sum(height * width for height, width in shapes)
    value = torch.randn(batch, positions, heads, dim, generator=generator)
    reference = torch.rand(1 if shared else batch, queries, levels, 2, generator=generator)
    offsets = torch.randn(batch, queries, heads, levels, points, 2, generator=generator) * 1.5
    logits = torch.randn(batch, queries, heads, levels, points, generator=generator) * 3
    return value.double(), shapes, reference.double(), offsets.double(), logits.double()


def as_dtype(arguments: tuple[Tensor, list[tuple[int, int]], Tensor, Tensor, Tensor], dtype: torch.dtype):
    """Value in `dtype`, the rest in the dtype that goes with it; and the same numbers in float64."""
    value, shapes, *rest = arguments
    wide = torch.promote_types(dtype, torch.float32)
    narrow = (value.to(dtype), shapes, *(tensor.to(wide) for tensor in rest))
    return narrow, tuple(x if isinstance(x, list) else x.double() for x in narrow)


def expected_of(value: Tensor, shapes: list[tuple[int, int]], reference: Tensor, offsets: Tensor, logits: Tensor):
    """Softmax and locations written out, then the plain formula."""
    batch, queries, heads = offsets.shape[:3]
    weights = logits.reshape(batch, queries, heads, -1).softmax(-1).reshape(logits.shape)
    sizes = torch.tensor([[width, height] for height, width in shapes], dtype=offsets.dtype)
    locations = reference[:, :, None, :, None] + offsets / sizes[:, None]
    return ms_deform_attn_plain(value, shapes, locations, weights)


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected).norm() / expected.norm())


# Channels of a head: less than a vector, whole vectors, several blocks and a rest, for vectors of 4, 8 and 16.
@pytest.mark.parametrize("dim", [1, 5, 16, 32, 107])
@dtype_parameter
def test_each_instruction_set_at_any_number_of_channels(instructions, dtype, dim):
    narrow, wide = as_dtype(inputs(dim=dim), dtype)
    result = ms_deform_attn_fused(*narrow)
    assert result.dtype == dtype and result.is_contiguous()
    assert relative_error(result, expected_of(*wide)) < TOLERANCE[dtype]
    locations, weights = fused.locations_and_weights(*narrow[1:])
    unfused = ms_deform_attn(narrow[0], narrow[1], locations, weights)
    expected = ms_deform_attn_plain(narrow[0].double(), narrow[1], locations.double(), weights.double())
    assert relative_error(unfused, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("points", [1, 7, 23])
def test_each_instruction_set_at_any_number_of_places(instructions, points):
    """Places are prepared a vector at a time; those of the last item have no others behind them."""
    narrow, wide = as_dtype(inputs([(4, 3)], points=points, dim=8), torch.float32)
    assert relative_error(ms_deform_attn_fused(*narrow), expected_of(*wide)) < 1e-6


def test_each_instruction_set_in_tiles_of_self_attention(instructions):
    """As many queries as positions: the order is by tiles, here with whole and cut ones, and every query is written."""
    shapes = [(33, 18), (16, 16), (5, 40)]
    narrow, wide = as_dtype(inputs(shapes, queries=33 * 18 + 256 + 200, heads=2, dim=8, shared=False), torch.float32)
    assert relative_error(ms_deform_attn_fused(*narrow), expected_of(*wide)) < 1e-6


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2.5e-5), (torch.bfloat16, None)])
def test_error_at_the_size_of_an_image(instructions, dtype, limit):
    """800 x 1066 pixels: coordinates up to 134, of which float32 holds 1e-5. Every 29th of the queries."""
    shapes = [(25, 34), (50, 67), (100, 134)]
    centres = cell_centres(shapes)[::29]
    value, _, _, offsets, logits = inputs(shapes, batch=1, queries=len(centres), heads=8, dim=32)
    reference = centres[None, :, None].expand(-1, -1, 3, -1)
    narrow, wide = as_dtype((value, shapes, reference, offsets, logits), dtype)
    found, expected = ms_deform_attn_fused(*narrow), expected_of(*wide)
    assert relative_error(found, expected) < TOLERANCE[dtype]
    if limit:
        assert (found - expected).abs().max() < limit


@pytest.mark.parametrize("dim", [5, 32])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_place_that_is_no_number_shows_and_no_other_suffers(instructions, wrong, dim):
    (value, shapes, reference, offsets, logits), _ = as_dtype(inputs(dim=dim, shared=False), torch.float32)
    clean = ms_deform_attn_fused(value, shapes, reference, offsets, logits)
    offsets[1, 3, 1, 2, 2, 0] = wrong
    logits[0, 5, 2, 1, 3] = math.nan
    reference[0, 7, 0, 1] = wrong
    spoiled = ms_deform_attn_fused(value, shapes, reference, offsets, logits).unflatten(-1, (3, dim))
    no_number = torch.zeros(2, 9, 3, dtype=torch.bool)
    no_number[1, 3, 1] = no_number[0, 5, 2] = no_number[0, 7] = True
    assert torch.equal(spoiled.isnan(), no_number[..., None].expand_as(spoiled))
    assert torch.equal(spoiled[~no_number], clean.unflatten(-1, (3, dim))[~no_number])


def test_what_lies_outside_is_not_read(instructions):
    """A pixel that is no number stays out of a result whose places do not touch it, the nearest one included."""
    value = torch.ones(1, 4, 1, 8)
    value[0, :2] = math.inf  # the upper of two rows
    locations = torch.tensor([[0.25, 0.75], [0.25, 1.25], [-0.25, 0.75], [0.25, -0.25], [5.0, 0.1], [-1e30, 1e30]])
    weights = torch.ones(1, 6, 1, 1, 1)
    result = ms_deform_attn(value, [(2, 2)], locations.reshape(1, 6, 1, 1, 1, 2), weights)[0, :, 0]
    assert result.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("logits", "weights"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0.25] * 4),
        ([1e4, 0.0, -1e4, 1e4], [0.5, 0.0, 0.0, 0.5]),
        ([-math.inf, 0.0, math.log(3), -math.inf], [0.0, 0.25, 0.75, 0.0]),
        ([-math.inf] * 4, [math.nan] * 4),
        ([math.inf, 0.0, 0.0, 0.0], [math.nan] * 4),
    ],
)
def test_softmax_at_its_edges(logits, weights):
    """Each place reads a pixel of its own, so that the result shows the weights; as torch's softmax has them."""
    value = torch.eye(4).reshape(1, 4, 1, 4)
    reference = torch.full((1, 1, 1, 2), 0.5)
    offsets = torch.tensor([[-1.5, 0], [-0.5, 0], [0.5, 0], [1.5, 0]]).reshape(1, 1, 1, 1, 4, 2)
    result = ms_deform_attn_fused(value, [(1, 4)], reference, offsets, torch.tensor(logits).reshape(1, 1, 1, 1, 4))
    torch.testing.assert_close(result[0, 0], torch.tensor(weights), atol=1e-6, rtol=0, equal_nan=True)


def test_unknown_instructions_are_an_error(monkeypatch):
    if active_backend("cpu") == "plain":
        pytest.skip("no compiled kernel")
    monkeypatch.setenv(VARIABLE, "mmx")
    with pytest.raises(UserError, match=f"{VARIABLE}=mmx: not among portable, avx2, avx512"):
        backend.cpu_instructions()
    narrow, _ = as_dtype(inputs(), torch.float32)
    with pytest.raises(RuntimeError, match=f"{VARIABLE}=mmx: this processor has .*portable"):
        ms_deform_attn_fused(*narrow)


@dtype_parameter
@pytest.mark.parametrize("shared", [True, False])
def test_fused_opcheck(dtype, shared):
    value, shapes, *rest = as_dtype(inputs(shared=shared), dtype)[0]
    flat = [size for shape in shapes for size in shape]
    leaves = [tensor.requires_grad_() for tensor in (value, *rest)]
    tolerance = {"atol": 5 * TOLERANCE[dtype], "rtol": 5 * TOLERANCE[dtype]}
    torch.library.opcheck(torch.ops.openseg_r.ms_deform_attn_fused, (leaves[0], flat, *leaves[1:]), **tolerance)


@pytest.mark.parametrize("shared", [True, False])
def test_fused_gradcheck(shared):
    value, shapes, *rest = inputs(queries=3, heads=2, dim=3, points=2, shared=shared)
    leaves = [tensor.requires_grad_() for tensor in (value, *rest)]
    assert torch.autograd.gradcheck(lambda v, *x: ms_deform_attn_fused(v, shapes, *x), leaves)


@pytest.mark.parametrize("empty", ["queries", "batch", "dim", "points"])
def test_fused_empty_inputs(empty):
    (value, shapes, *rest), _ = as_dtype(inputs(**{empty: 0}), torch.float32)
    result = ms_deform_attn_fused(value, shapes, *rest)
    assert result.shape == (value.shape[0], rest[1].shape[1], 3 * value.shape[3]) and not result.any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v, s, r, o, g: (v, s, r[..., :1], o, g), r"reference_points must be \(2 or 1, 9, 3, 2\), got"),
        (lambda v, s, r, o, g: (v, s, r.half(), o, g), "reference_points are torch.float16 on cpu, value is"),
        (lambda v, s, r, o, g: (v, s, r, o[..., :1], g), "sampling_offsets must be"),
        (
            lambda v, s, r, o, g: (v, s, r, o, g[:, :-1]),
            r"attention_logits \(2, 8, 3, 3, 4\) do not match sampling_off",
        ),
        (lambda v, s, r, o, g: (v, s, r, o, g.half()), "attention_logits is torch.float16, which does not go with"),
    ],
)
def test_fused_inputs_that_do_not_fit(spoil, message):
    with pytest.raises(ValueError, match=message):
        ms_deform_attn_fused(*spoil(*as_dtype(inputs(), torch.float32)[0]))


def test_the_fused_operator_itself_refuses_what_does_not_fit():
    value, shapes, reference, offsets, logits = as_dtype(inputs(), torch.float32)[0]
    flat = [size for shape in shapes for size in shape]
    with pytest.raises((ValueError, RuntimeError), match="reference_points must be"):
        torch.ops.openseg_r.ms_deform_attn_fused(value, flat, reference[:, :-1], offsets, logits)


def test_module_without_gradients_is_the_module_with_them():
    """Fused where no gradient is wanted, by steps where one is: one result."""
    torch.manual_seed(0)
    module = MSDeformAttn(12, n_levels=3, n_heads=3, n_points=4)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    query, memory, reference = torch.randn(2, 7, 12), torch.randn(2, 35, 12), torch.rand(1, 7, 3, 2)
    expected = module(query, reference, memory, SHAPES)
    assert expected.grad_fn is not None
    expected = expected.detach()
    with torch.no_grad():
        assert relative_error(module(query, reference, memory, SHAPES), expected.double()) < 1e-6
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(query, reference, memory, SHAPES)
    assert half.dtype == torch.bfloat16 and relative_error(half, expected.double()) < 0.015
