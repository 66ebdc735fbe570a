"""The benchmark of an image measures the library's own stages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maft import build
from maft.modeling.pixel_decoder.ops import active_backend, module
from maft.weights.seeding import seed_module
from reason.vocabulary import load_vocabulary
from tools.bench.image import __main__ as command
from tools.bench.image.measure import Clock, costs
from tools.bench.image.stages import WAYS, deformable_attention, text_input, watched


def test_the_report_has_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "image.json"
    words = ["--models", "mini", "--size", "64", "--rounds", "1", "--vocabularies", "3", "30", "--json", str(file)]
    assert command.main(words) == 0
    report = json.loads(file.read_text())
    assert report["peaks"]["gflops"] > 0.1 and report["peaks"]["gbytes"] > 0.1
    model = report["models"]["mini"]
    fused = model["network"]["seconds"]["float32"]
    assert {"backbone", "pixel decoder", "decoder", "all"} < set(fused)
    assert sum(fused[stage]["median"] for stage in ("backbone", "pixel decoder", "decoder")) <= fused["all"]["median"]
    assert model["network"]["least"]["backbone"]["flops"] > 1e6
    assert ("plain op" in model["network"]["seconds"]) == (active_backend("cpu") != "plain")
    for classes in ("3", "30"):
        assert set(model["vocabularies"][classes]) == set(WAYS)
        for of in model["vocabularies"][classes].values():
            assert set(of["seconds"]) == {"text", "classes", "assembly", "metric"}
    assert "| backbone" in capsys.readouterr().out


def test_flops_are_those_of_the_layers_and_bytes_those_of_its_ends() -> None:
    layer = torch.nn.Linear(16, 8).requires_grad_(False)
    least = costs(lambda: layer(torch.zeros(4, 16)), {"layer": layer})
    assert least == {"layer": {"flops": 2 * 4 * 16 * 8, "bytes": 4 * (16 * 8 + 8 + 4 * 16 + 4 * 8)}}


def test_hooks_and_the_op_are_taken_back() -> None:
    layer, used = torch.nn.Linear(2, 2), module.ms_deform_attn_fused
    clock = Clock(torch.device("cpu"))
    with watched({"layer": layer}, clock), deformable_attention("plain", clock.device):
        layer(torch.zeros(1, 2))
        assert module.ms_deform_attn_fused is not used
    layer(torch.zeros(1, 2))
    assert len(clock.seconds["layer"]) == 1 and module.ms_deform_attn_fused is used


def test_every_kind_of_op_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network = seed_module(build.build_network("mini")).requires_grad_(False)
    image = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    masks = {}
    for kind in ("fused", "compiled", "plain"):
        with torch.inference_mode(), deformable_attention(kind, torch.device("cpu")) as calls:
            masks[kind] = network.look([image])[0].regions.mask_logits
        assert len(calls) == 2  # one a layer of mini's encoder: inference goes through the fused form
    for kind in ("compiled", "plain"):
        torch.testing.assert_close(masks[kind], masks["fused"], atol=1e-4, rtol=1e-4)


def test_ways_to_ask_cover_what_they_say() -> None:
    network, vocabulary = build.build_network("mini"), load_vocabulary("voc20")
    given = {way: text_input(network, vocabulary, way) for way in WAYS}
    assert given["names"].attributes is None and given["reasons"].attributes == 3
    assert given["reasons"].class_index is None and len(given["image reasons"].class_index) == 4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak")
def test_the_peak_is_that_of_the_stretch() -> None:
    code = """
import torch
from tools.bench.image.measure import peak_memory
device = torch.device("cpu")
with peak_memory(device) as large:
    torch.ones(2**26)
with peak_memory(device) as small:
    torch.ones(2**10)
assert large["mib"] - small["mib"] > 200, (large, small)
"""  # in a process of its own: this one's peak was that of other tests
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2], check=True)
