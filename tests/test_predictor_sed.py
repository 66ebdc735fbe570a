"""The Python interface with SED, on a small one with seeded weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from maft import Segmentor, UserError, build, load_segmentor
from maft.modeling.sed import SED
from maft.sizes import resized
from reason.vocabulary import load_vocabulary

ROOT = Path(__file__).resolve().parents[1]
TINY: dict[str, Any] = {
    "clip": str(ROOT / "tests/assets/tiny_clip.json"),
    "width": 32,
    "widths": (16, 16, 16),
    "guidance": (8, 8, 8),
    "heads": 2,
    "side": 64,
}
CLASSES = ["star, pentagram", "disc", "grass"]
REASONS = {"star": ["five points", "sharp corners"], "disc": ["a round outline"], "grass": ["green blades"]}


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small SED among the models that have names; what it computes is what the large ones compute."""
    monkeypatch.setitem(build.MODELS, "sed-tiny", TINY)  # type: ignore[arg-type]
    monkeypatch.setitem(build.SIZES, "sed-tiny", (64, 256))  # type: ignore[arg-type]
    monkeypatch.setitem(build.BUILDERS, "sed-tiny", build.build_sed)  # type: ignore[arg-type]


@pytest.fixture
def segmentor(_known: None) -> Segmentor:
    return _load()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 90, (48, 80, 3)) + np.array([40, 120, 50])
    pixels[10:30, 20:60] = (220, 40, 30)
    return pixels.clip(0, 255).astype(np.uint8)


def _load(**changes: Any) -> Segmentor:
    return load_segmentor("sed-tiny", "seeded", device="cpu", **changes)


def _scores(segmentor: Segmentor, image: np.ndarray, classes: Any, reasons: Any) -> torch.Tensor:
    seen = segmentor.look(image)
    vocabulary = seen.segment(classes).vocabulary
    given = segmentor.read_reasons(reasons, vocabulary, None)
    with torch.inference_mode():
        results = segmentor.network.results(seen.view, segmentor.classifier(vocabulary, given), (48, 80))
        return results["class_maps"].scores()


def test_clip_looks_once_and_is_asked_often(
    segmentor: Segmentor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = segmentor.look(image)
    expected = segmentor(image, CLASSES)
    assert expected.label_map.shape == (48, 80) and expected.segments is None and expected.origin == "names"
    monkeypatch.setattr(segmentor.network, "encode", lambda pixels: pytest.fail("looked again"))
    assert np.array_equal(seen.segment(CLASSES).label_map, expected.label_map)
    assert seen.segment(["disc", "wall"]).vocabulary.class_names == ("disc", "wall")
    generic = seen.segment(CLASSES, REASONS)
    assert generic.origin == "generic" and not generic.note and set(generic.reasons) == {"star", "disc", "grass"}


def test_a_batch_is_what_each_gives_alone(segmentor: Segmentor, image: np.ndarray) -> None:
    small = image[:40, :40]
    for one, result in zip((small, image), segmentor([small, image], CLASSES), strict=True):
        assert np.array_equal(segmentor(one, CLASSES).label_map, result.label_map)


@pytest.mark.parametrize("reasons", [None, REASONS], ids=["names", "generic"])
@pytest.mark.parametrize("design", ["passes", "joint", "mean", "spread"])
def test_it_computes_what_the_command_line_does(
    image: np.ndarray, reasons: Any, design: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maft.config import build_config
    from maft.meta_arch import build_network
    from maft.weights.seeding import seed_module

    monkeypatch.chdir(ROOT)
    (tmp_path / "generic.json").write_text(json.dumps({name: {"class_des": own} for name, own in REASONS.items()}))
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.NUM_DES": 3,
        "MODEL.META_ARCHITECTURE": "SED_Reason" if reasons else "SED",
        "MODEL.TEST_CLASS_REASON_JSON": tmp_path / "generic.json",
        "SED.ATTRIBUTES": design,
    }
    adapter = seed_module(build_network(build_config("tests/assets/tiny_sed.yaml", _pairs(options))))
    segmentor = _load(design=design)
    vocabulary = segmentor(image, CLASSES).vocabulary
    record = {"image": resized(image, 64, 256), "height": 48, "width": 80, "vocabulary": vocabulary}
    with torch.inference_mode():
        expected = adapter([record])[0]["sem_seg"]
    torch.testing.assert_close(_scores(segmentor, image, CLASSES, reasons), expected, rtol=1e-4, atol=1e-6)


def _pairs(options: dict[str, Any]) -> list[str]:
    return [str(item) for pair in options.items() for item in pair]


def test_designs_differ_and_passes_is_the_default(image: np.ndarray) -> None:
    scores = {design: _scores(_load(design=design), image, CLASSES, REASONS) for design in ("passes", "joint", "mean")}
    assert torch.equal(_scores(_load(), image, CLASSES, REASONS), scores["passes"])
    for other in ("joint", "mean"):
        assert (scores["passes"] - scores[other]).abs().max() > 1e-5


def test_designs_are_seds(image: np.ndarray) -> None:
    with pytest.raises(UserError, match="design: unknown design 'all'; choose one of passes, joint, mean, spread"):
        _load(design="all")
    with pytest.raises(UserError, match="design: 'joint'; only SED's models .* have designs"):
        load_segmentor("mini", device="cpu", design="joint")


def test_reasons_of_an_image_leave_its_classes(segmentor: Segmentor, image: np.ndarray, tmp_path: Path) -> None:
    document = {"reasoning": {"map_class_reason": {"disc": {"reason3": ["a round outline"]}}}}
    (tmp_path / "a.json").write_text(json.dumps(document))
    result = segmentor(image, CLASSES, reasons=tmp_path / "a.json")
    assert result.origin == "image" and [found.name for found in result.classes] == ["disc"]
    scores = _scores(segmentor, image, CLASSES, tmp_path / "a.json")
    assert scores[1].min() > 0 and scores[[0, 2]].max() == 0


def test_classes_without_a_reason_are_asked_for_by_name(segmentor: Segmentor, image: np.ndarray) -> None:
    result = segmentor(image, CLASSES, {"disc": ["a round outline"]})
    assert result.origin == "generic" and "star" in result.note and "grass" in result.note
    given = segmentor.read_reasons({"disc": ["a round outline"]}, result.vocabulary, None)
    mixed = segmentor.classifier(result.vocabulary, given).planes
    plain = segmentor.classifier(result.vocabulary, segmentor.read_reasons(None, result.vocabulary, None)).planes
    assert mixed.shape[:3] == (3, 3, 80) and plain.shape[:3] == (1, 3, 80)
    for group in mixed:
        torch.testing.assert_close(group[[0, 2]], plain[0][[0, 2]])
        assert (group[1] - plain[0][1]).abs().max() > 1e-3


def test_reasons_of_our_names_reach_the_classes_that_sed_calls_otherwise(
    segmentor: Segmentor, image: np.ndarray
) -> None:
    classes = load_vocabulary("ade150")
    airplane = next(entry for entry in classes.classes if entry.sed_names == ("airplane",))
    assert airplane.synonyms[0] == "airplane" or "plane" in airplane.synonyms
    ours = next(name for name in airplane.synonyms if name != "airplane")
    given = segmentor.read_reasons({ours: ["two wings"]}, classes, None)
    assert given.kind == "some"
    assert segmentor.used(classes, given) == {airplane.synonyms[0]: given.reasons[ours]}


def test_names_without_space_are_two_names(segmentor: Segmentor) -> None:
    read = segmentor.classifier(segmentor(np.zeros((32, 32, 3), np.uint8), ["cat,kitten", "dog"]).vocabulary, _none())
    same = segmentor.classifier(segmentor(np.zeros((32, 32, 3), np.uint8), ["cat, kitten", "dog"]).vocabulary, _none())
    torch.testing.assert_close(read.planes, same.planes)


def _none() -> Any:
    from maft.inputs import GivenReasons

    return GivenReasons({}, "names")


def test_a_checkpoint_may_leave_out_the_text_tower(image: np.ndarray, tmp_path: Path) -> None:
    network = _load().network
    assert isinstance(network, SED)
    state = {name: value.clone().contiguous() for name, value in network.state_dict().items()}
    prefix = network.clip_prefixes[0]
    clip = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    save_file(clip, tmp_path / "clip.safetensors")
    kept = {k: v for k, v in state.items() if not k.startswith(prefix) or ".visual." in k}
    assert len(kept) < len(state)
    save_file(kept, tmp_path / "sed.safetensors")
    with pytest.raises(UserError, match=r"sed\.safetensors: lacks \d+ entries of CLIP"):
        load_segmentor("sed-tiny", tmp_path / "sed.safetensors", device="cpu")
    path = tmp_path / "clip.safetensors"
    completed = load_segmentor("sed-tiny", tmp_path / "sed.safetensors", device="cpu", clip=path)
    for name, value in completed.network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_messages_speak_of_the_arguments_of_python(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Of weights and clip, and never of a config key, which a user of Python has not written."""
    network = _load().network
    assert [record.message for record in caplog.records if "MEANS NOTHING" in record.message] == [
        "weights is 'seeded': random stand-in weights, the segmentation MEANS NOTHING"
    ]
    prefix = network.clip_prefixes[0]
    kept = {k: v.contiguous() for k, v in network.state_dict().items() if not k.startswith(prefix) or ".visual." in k}
    save_file(kept, tmp_path / "sed.safetensors")
    torch.save({"visual.weight": torch.zeros(2)}, tmp_path / "other.pt")
    said = []
    for weights, clip in (
        ("", None),
        (tmp_path / "absent.pth", None),
        (tmp_path / "sed.safetensors", None),
        (tmp_path / "sed.safetensors", tmp_path / "absent.pt"),
        (tmp_path / "sed.safetensors", tmp_path / "other.pt"),
    ):
        with pytest.raises(UserError) as error:
            load_segmentor("sed-tiny", weights, device="cpu", clip=clip)
        said.append(str(error.value))
    assert said[0].startswith("weights: empty") and "absent.pth: no such weight file" in said[1]
    assert said[2].startswith(f"weights {tmp_path}") and ", and clip: '' is neither a file nor a tag" in said[2]
    assert f", and clip: {tmp_path / 'absent.pt'} is not there; name a file or a tag" in said[3]
    assert "other.pt does not supply them" in said[4]
    assert not any(key in line for key in ("MODEL.", "SED.", "CLIP_") for line in said), said


def test_autocast(image: np.ndarray) -> None:
    exact, fast = (
        {found.name: found.score for found in _load(dtype=dtype)(image, CLASSES, REASONS).classes}
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.keys() == fast.keys() and exact != fast
    assert all(fast[name] == pytest.approx(score, abs=0.03) for name, score in exact.items())


def test_the_models_of_the_table() -> None:
    assert {"sed-base", "sed-large"} <= set(build.MODELS)
    assert build.SIZES["sed-large"] == (640, 2560)
    assert build.MODELS["sed-base"]["clip_weights"] != build.MODELS["base"]["clip_weights"]


def test_it_works_without_detectron2() -> None:
    code = f"""
import sys
sys.modules["detectron2"] = None
import numpy as np
from maft import Segmentor, build
from maft.weights.loading import load_for_evaluation
network = build.build_sed(**{TINY!r})
load_for_evaluation(network, "seeded")
segmentor = Segmentor(network, (64, 256), design="mean")
result = segmentor(np.zeros((40, 60, 3), np.uint8), ["disc", "grass"], {{"disc": ["a round outline"]}})
assert result.label_map.shape == (40, 60)
assert not any(name.startswith("detectron2.") for name in sys.modules)
"""
    done = forked.run(["-c", code])
    assert done.returncode == 0, done.stderr
