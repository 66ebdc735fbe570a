"""SED's sentences and planes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from maft.errors import UserError
from maft.text.bank import FeatureBank
from maft.text.encoder import CLIPTextEncoder
from maft.text.plane_fold import PlaneFold
from maft.text.planes import PlanePrompts, find_reasons, fold_planes, generic_planes, plain_planes, reason_planes
from maft.text.source import TextSource
from maft.text.templates import TemplateSet, template_set
from reason.triplets import Reason
from reason.vocabulary import load_vocabulary

FRAMES = TemplateSet("two", ("a {}.", "the {}"))
NAMES = (("sky", "clouds"), ("person,child",), ("road",))
REASONS = {
    "sky": Reason("sky", "", "", ("blue, pale", "wide")),
    "child": Reason("child", "", "", ("small",)),
    "never": Reason("never", "", "", ("odd",)),
}


def _reason_planes(design: str, num_des: int = 3) -> PlanePrompts:
    others = (("sky",), ("person", "child"), ("road",))
    prompts = reason_planes(NAMES, REASONS, num_des, design, "reasons.json", FRAMES, others)
    assert prompts is not None
    return prompts


def test_the_eighty_templates() -> None:
    frames = template_set("imagenet").templates
    assert len(frames) == len(set(frames)) == 80
    assert (frames[0], frames[-1]) == ("a bad photo of a {}.", "a tattoo of the {}.")


def test_sentences_run_over_names_fastest() -> None:
    assert plain_planes(NAMES[:2], FRAMES).sentences == (
        "a sky.",
        "a clouds.",
        "the sky",
        "the clouds",
        "a person,child.",
        "the person,child",
    )


def test_attributes_may_hold_commas_and_are_repeated() -> None:
    prompts = _reason_planes("passes")
    assert prompts.sentences[:4] == (
        "a sky that has blue, pale.",
        "a clouds that has blue, pale.",
        "the sky that has blue, pale",
        "the clouds that has blue, pale",
    )
    assert prompts.sentences[-6:-2] == (
        "a sky that has blue, pale.",
        "a clouds that has blue, pale.",
        "the sky that has blue, pale",
        "the clouds that has blue, pale",
    )
    assert (prompts.class_index, prompts.padded, prompts.ignored) == ((0, 1), ("sky", "person,child"), ("never",))
    assert prompts.by_other_names == ("person,child",)


def test_spread_gives_every_template_an_attribute_in_turn() -> None:
    prompts = _reason_planes("spread", num_des=2)
    assert prompts.groups == 1
    assert prompts.sentences[:4] == (
        "a sky that has blue, pale.",
        "a clouds that has blue, pale.",
        "the sky that has wide",
        "the clouds that has wide",
    )


@pytest.mark.parametrize("design", ["passes", "joint", "mean", "spread"])
def test_planes_are_means_over_names(design: str) -> None:
    prompts = _reason_planes(design)
    features = torch.randn(len(prompts.sentences), 5, generator=torch.Generator().manual_seed(1))
    planes = fold_planes(features, prompts)
    groups, unit = prompts.groups, F.normalize(features, dim=-1)
    wanted = []
    for rows in unit.view(groups, -1, 5):
        sky = F.normalize(rows[:4].view(2, 2, 5).mean(dim=1), dim=-1)
        wanted.append(torch.stack((sky, rows[4:])))
    expected = torch.stack(wanted)
    if design == "mean":
        expected = F.normalize(expected.mean(dim=0, keepdim=True), dim=-1)
    torch.testing.assert_close(planes, expected)
    torch.testing.assert_close(planes.norm(dim=-1), torch.ones(planes.shape[:-1]))


def test_one_attribute_makes_all_designs_equal() -> None:
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    reasons = {name: Reason(name, "", "", ("small",)) for name in ("sky", "person,child")}
    folds = []
    for design in ("passes", "joint", "mean", "spread"):
        prompts = generic_planes(NAMES[:2], reasons, 1, design, "reasons.json", FRAMES, (("sky",), ("child",)))
        folds.append(fold_planes(features, prompts))
        assert prompts.class_index is None
    assert all(torch.allclose(fold, folds[0]) for fold in folds)


def test_generic_reasons_must_cover_every_class() -> None:
    with pytest.raises(
        UserError, match=r"reasons.json: no generic reason with attributes for 'person,child', 'road' of 3"
    ):
        generic_planes(NAMES, REASONS, 3, "passes", "reasons.json", FRAMES)
    with pytest.raises(UserError, match="SED.ATTRIBUTES: 'all' is no design"):
        reason_planes(NAMES, REASONS, 3, "all", "reasons.json", FRAMES)
    assert reason_planes(NAMES[2:], REASONS, 3, "passes", "reasons.json", FRAMES) is None


@pytest.mark.parametrize(
    ("vocabulary", "index", "names"),
    [
        ("ade150", 7, ("bed ",)),
        ("ade150", 6, ("road",)),
        ("ade150", 8, ("windowpane",)),
        ("pc459", 13, ("baseballbat",)),
        ("pc459", 177, ("gashood",)),
        ("ade847", 8, ("sidewalk", "pavement")),
        ("coco_stuff171", 84, ("building-other",)),
    ],
)
def test_seds_own_names(vocabulary: str, index: int, names: tuple[str, ...]) -> None:
    assert load_vocabulary(vocabulary).sed_names[index] == names


@pytest.mark.parametrize(
    ("vocabulary", "differ", "several"),
    [("ade150", 52, 0), ("ade847", 0, 217), ("pc459", 94, 0), ("pc59", 0, 0), ("voc20", 0, 0), ("coco_stuff171", 0, 0)],
)
def test_how_often_seds_names_differ(vocabulary: str, differ: int, several: int) -> None:
    classes = load_vocabulary(vocabulary).classes
    assert sum(entry.sed is not None for entry in classes) == differ
    assert sum(len(entry.sed_names) > 1 for entry in classes) == several


def test_a_blend_of_equal_attributes_is_the_attribute() -> None:
    prompts = replace(plain_planes(NAMES[2:], FRAMES), groups=2, sentences=("a", "b", "a", "b"), blend=True)
    features = F.normalize(torch.randn(2, 3, generator=torch.Generator().manual_seed(3)), dim=-1).repeat(2, 1)
    torch.testing.assert_close(fold_planes(features, prompts)[0, 0], features[:2])


def test_of_keys_that_share_a_name_the_one_that_shares_most_is_taken() -> None:
    reasons = dict.fromkeys(("blind, screen", "screen, crt screen", "counter", "buffet, sideboard"), REASONS["sky"])
    names = (("screen", "crt screen"), ("blind", "screen"), ("buffet", "counter", "sideboard"), ("screen",), ("crt",))
    expected = ["screen, crt screen", "blind, screen", "buffet, sideboard", "blind, screen", None]
    assert find_reasons(names, reasons, None) == expected


def test_generic_reasons_of_our_names_are_found_and_counted(tmp_path: Path, direct: CLIPTextEncoder) -> None:
    """SED's "airplane" is "plane" first in our list of A-150, and written reasons are keyed by ours."""
    vocabulary = load_vocabulary("ade150")
    fold = PlaneFold(num_des=1)
    names = fold.names(vocabulary)
    differ = [entry for entry in vocabulary.classes if entry.synonyms[0] not in entry.sed_names]
    assert differ
    generic = {entry.synonyms[0]: {"class_des": ["a form"]} for entry in vocabulary.classes}
    (tmp_path / "generic.json").write_text(json.dumps(generic))
    with FeatureBank(direct, fold.templates) as bank:
        source = TextSource(fold, bank, generic_file=tmp_path / "generic.json")
        planes = source.classifier(names, None)
    assert planes.planes.shape[:3] == (1, 150, 80) and planes.class_index is None
    assert source.usage()["matched_by_other_names"] == len(differ)
