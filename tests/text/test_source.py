"""Classifier rows through a real, small CLIP, with reason files on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maft.errors import UserError
from maft.text.bank import FeatureBank
from maft.text.feature_files import feature_file_path, read_feature_file, write_feature_file
from maft.text.prompts import image_prompts
from maft.text.rows import RowFold, fold_rows
from maft.text.source import TextSource
from maft.text.templates import template_set
from reason.shipped import reasons_for, shipped_file, vocabulary_of
from reason.triplets import TripletError, load_image
from reason.vocabulary import load_vocabulary

SYNONYMS = [("cat",), ("dog", "hound"), ("sky", "clouds", "heaven")]
GENERIC = {
    "cat": {"class_des": ["fur", "whiskers", "tail"]},
    "dog": {"class_des": ["snout", "collar", "paws", "tail"]},
    "sky": {"class_des": ["blue", "wide"]},
}
SEEN = {"sky": ["grey", "cloudy"], "dog,cat": ["brown fur", "big ears", "leash"], "zebra": ["stripes"]}

MakeSource = Callable[..., TextSource[Any, Any]]


def image_document(entries: dict[str, list[str]]) -> dict[str, Any]:
    return {"reasoning": {"map_class_reason": {name: {"reason3": list(of)} for name, of in entries.items()}}}


def unit(values: Tensor) -> Tensor:
    return values / values.norm(dim=-1, keepdim=True)


def average(direct, sentences: list[str]) -> Tensor:
    """One row by its definition."""
    return unit(unit(direct.encode(sentences)).mean(dim=0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Reason files: generic ones, and of the images `seen` and `other` (which names no class)."""
    (tmp_path / "generic.json").write_text(json.dumps(GENERIC))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "seen.json").write_text(json.dumps(image_document(SEEN)))
    (tmp_path / "images" / "other.json").write_text(json.dumps(image_document({"zebra": ["stripes"]})))
    return tmp_path


@pytest.fixture
def make(folder: Path, counting) -> MakeSource:
    """Build a source over `folder`."""

    def build(**changes: Any) -> TextSource[Any, Any]:
        fold = {"num_des": 3, "reason_data": "pets"}
        source = {"generic_file": folder / "generic.json", "image_folders": [folder / "images"]}
        bank = changes.pop("bank", None) or FeatureBank(counting)
        for name, value in changes.items():
            (source if name in {"generic_file", "image_folders", "image_specific", "reasons", "fallback"} else fold)[
                name
            ] = value
        return TextSource(RowFold(**fold), bank, **source)

    return build


def test_image_specific_rows_in_reference_mode(make: MakeSource, direct) -> None:
    classifier = make().classifier(SYNONYMS, "/data/seen.jpg")
    assert classifier.source == "image" and classifier.num_classes == 3 and classifier.attributes == 3
    assert classifier.class_index == (0, 1, 2) and classifier.rows_per_class == (3, 6, 9)
    assert classifier.rows.shape == (18, direct.dim) and classifier.rows.dtype == torch.float32
    # By hand: the sentences of "hound", 14 templates with 3 attributes each, in runs of 14.
    sentences = [
        template.format(f"hound that has {attribute}")
        for template in template_set("vild").templates
        for attribute in SEEN["dog,cat"]
    ]
    for group in range(3):
        expected = average(direct, sentences[group * 14 : group * 14 + 14])
        torch.testing.assert_close(classifier.rows[3 + 3 + group], expected)


def test_aligned_rows_give_for_every_attribute_the_maximum_over_synonyms(make: MakeSource, direct) -> None:
    classifier = make(mode="aligned").classifier(SYNONYMS, "seen.jpg")
    image = unit(torch.randn(direct.dim, generator=torch.Generator().manual_seed(0)))
    values = (classifier.rows @ image).split(classifier.rows_per_class)
    attributes = [SEEN["dog,cat"], SEEN["dog,cat"], ["grey", "cloudy", "grey"]]
    for names, of_class, logits in zip(SYNONYMS, attributes, values, strict=True):
        table = logits.reshape(3, len(names)).max(dim=-1).values
        for k, attribute in enumerate(of_class):
            phrases = [f"{name} that has {attribute}" for name in names]
            rows = [average(direct, list(template_set("vild").fill(phrase))) for phrase in phrases]
            torch.testing.assert_close(table[k], torch.stack([row @ image for row in rows]).max())


def test_plain_rows(make: MakeSource, direct) -> None:
    source = make(reasons=False, generic_file=None, image_folders=())
    classifier = source.classifier(SYNONYMS, "seen.jpg")
    assert classifier.source == "plain" and classifier.attributes is None and classifier.class_index is None
    assert classifier.rows_per_class == (1, 2, 3)
    torch.testing.assert_close(classifier.rows[2], average(direct, list(template_set("vild").fill("hound"))))
    assert source.usage() == {"plain": 1}


def test_fallback_is_announced_once_and_counted(make: MakeSource, caplog: pytest.LogCaptureFixture) -> None:
    source = make()
    with caplog.at_level(logging.WARNING):
        missing = [source.classifier(SYNONYMS, f"missing{number}.jpg") for number in range(3)]
        without = source.classifier(SYNONYMS, "other.jpg")
        seen = source.classifier(SYNONYMS, "seen.jpg")
        source.classifier(SYNONYMS, None)
    assert [classifier.source for classifier in (*missing, without, seen)] == ["generic"] * 4 + ["image"]
    assert missing[0].class_index is None
    assert source.usage() == {
        "generic": 1,
        "generic_missing_file": 3,
        "generic_no_class": 1,
        "ignored_keys": 1,
        "image": 1,
        "padded_attributes": 2,
    }
    assert caplog.text.count("missing0.jpg") == 1 and "missing1.jpg" not in caplog.text
    assert caplog.text.count("names no class of the vocabulary") == 1
    assert "fewer than 3 attributes" in caplog.text and "'zebra'" in caplog.text


def test_generic_reasons_that_were_asked_for_are_no_warning(make: MakeSource, caplog: pytest.LogCaptureFixture) -> None:
    """MODEL.REASON_DIR '' asks for them; mini's "generic reasons" are a method of its own."""
    source = make(image_folders=(), image_specific=False)
    with caplog.at_level(logging.INFO):
        assert source.classifier(SYNONYMS, "a.jpg").source == "generic"
    assert "no reasons of its own" not in caplog.text
    make(image_folders=()).classifier(SYNONYMS, "a.jpg")
    assert "a.jpg: no reasons of its own (no folder of them)" in caplog.text


def test_fallback_error_names_the_missing_file(make: MakeSource, folder: Path) -> None:
    source = make(fallback="error")
    with pytest.raises(UserError, match=r"images/missing\.json.*MODEL\.REASON\.FALLBACK"):
        source.classifier(SYNONYMS, "missing.jpg")
    with pytest.raises(UserError, match=r"other\.json: names no class"):
        source.classifier(SYNONYMS, "other.jpg")
    with pytest.raises(UserError, match=r"missing\.json"):
        source.warm_up("pets", SYNONYMS, ["seen.jpg", "missing.jpg"], progress=False)
    with pytest.raises(UserError, match=r"seen\.json.*MODEL\.REASON_DIR"):
        make(fallback="error", image_folders=()).classifier(SYNONYMS, "seen.jpg")
    assert source.classifier(SYNONYMS, "seen.jpg").source == "image"


def test_generic_rows_belong_to_their_data_set(make: MakeSource, counting) -> None:
    """The reference serves all data sets with the rows of the first."""
    source = make(image_folders=())
    first = source.classifier(SYNONYMS, "a.jpg")
    second = source.classifier(SYNONYMS[:2], "a.jpg")
    assert first.num_classes == 3 and second.num_classes == 2 and len(second.rows) == 9
    asked = len(counting.asked)
    assert source.classifier(SYNONYMS, "b.jpg") is first
    assert source.classifier([list(names) for names in SYNONYMS], "c.jpg") is first
    assert source.classifier(SYNONYMS[::-1], "c.jpg") is not first
    assert len(counting.asked) == asked


def test_generic_reasons_that_are_missing_or_incomplete(make: MakeSource, folder: Path) -> None:
    with pytest.raises(UserError, match=r"MODEL\.TEST_CLASS_REASON_JSON: empty"):
        make(generic_file="").classifier(SYNONYMS, "missing.jpg")
    with pytest.raises(UserError, match=r"generic\.json: no generic reason for 'eel'"):
        make().classifier([*SYNONYMS, ("eel",)], "missing.jpg")
    with pytest.raises(TripletError, match="no such file"):
        make(generic_file=folder / "absent.json").classifier(SYNONYMS, "missing.jpg")
    (folder / "images" / "cut.json").write_text('{"reasoning": {"map_cl')
    with pytest.raises(TripletError, match=r"cut\.json"):
        make().classifier(SYNONYMS, "cut.jpg")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("mode", "best", "MODE"),
        ("fallback", "none", "FALLBACK"),
        ("num_des", 0, "NUM_DES"),
        ("templates", "x", "TEMPLATES"),
    ],
)
def test_options_that_there_are_not(make: MakeSource, option: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**{option: value})


@pytest.mark.parametrize("reasons", [True, False])
def test_after_warming_up_nothing_is_encoded(make: MakeSource, counting, folder: Path, reasons: bool) -> None:
    bank = FeatureBank(counting, "vild", folder / "bank")
    images = ["seen.jpg", "other.jpg", "missing.jpg"]
    source = make(bank=bank, reasons=reasons)
    encoded = source.warm_up("pets", SYNONYMS, images, progress=False)
    assert encoded == len(counting.asked) == len(set(counting.asked)) > 0
    assert source.warm_up("pets", SYNONYMS, images, progress=False) == 0
    assert source.usage() == {}
    fresh = make(bank=FeatureBank(counting, "vild", folder / "bank"), reasons=reasons)
    for image in images:
        fresh.classifier(SYNONYMS, image)
    assert len(counting.asked) == encoded


def test_warming_up_without_images_is_about_what_all_share(make: MakeSource, counting) -> None:
    source = make()
    assert source.warm_up("pets", SYNONYMS, progress=False) == (3 + 2 * 3 + 3 * 2) * 14
    asked = len(counting.asked)
    source.classifier(SYNONYMS, "missing.jpg")
    assert len(counting.asked) == asked


def test_fold_rows_by_hand() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, -1.0], [3.0, 0.0]])
    rows = fold_rows(features, torch.tensor([[0, 1], [3, 0]]).numpy())
    torch.testing.assert_close(rows, torch.tensor([[0.5**0.5, 0.5**0.5], [1.0, 0.0]]))


# Feature files


@pytest.fixture
def feature_file(make: MakeSource, folder: Path) -> Path:
    """The feature file of the image `seen`, made by the same CLIP."""
    classifier = make().classifier(SYNONYMS, "seen.jpg")
    path = feature_file_path(folder / "features", "pets", "Convnext-B", "seen")
    assert classifier.class_index is not None
    write_feature_file(path, classifier.rows.numpy(), classifier.rows_per_class, classifier.class_index)
    return path


def test_feature_file_is_read_instead_of_encoding(
    make: MakeSource, counting, folder: Path, feature_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert set(json.loads(feature_file.read_text())) == {"text_classifier", "test_num_templates", "class_index"}
    expected = make().classifier(SYNONYMS, "seen.jpg")
    counting.asked.clear()
    source = make(feature_dir=folder / "features")
    with caplog.at_level(logging.WARNING):
        first, second = (source.classifier(SYNONYMS, "seen.jpg") for _ in range(2))
    assert torch.equal(first.rows, expected.rows) and torch.equal(second.rows, expected.rows)
    assert len(counting.asked) == 14  # one row, to see whether the same CLIP made the file
    assert source.usage()["feature_files"] == 2
    assert caplog.text.count(str(feature_file)) == 1 and "cosine" not in caplog.text
    assert source.warm_up("pets", SYNONYMS, ["seen.jpg"], progress=False) == 0


def test_feature_file_of_another_clip_is_read_with_a_warning(
    make: MakeSource, folder: Path, feature_file: Path, direct, caplog: pytest.LogCaptureFixture
) -> None:
    rows = unit(torch.randn(18, direct.dim, generator=torch.Generator().manual_seed(1)))
    write_feature_file(feature_file, rows.numpy(), (3, 6, 9), (0, 1, 2))
    with caplog.at_level(logging.WARNING):
        classifier = make(feature_dir=folder / "features").classifier(SYNONYMS, "seen.jpg")
    torch.testing.assert_close(classifier.rows, rows)
    assert "cosine" in caplog.text


def test_feature_files_are_ignored_in_aligned_mode(make: MakeSource, folder: Path, feature_file: Path, caplog) -> None:
    source = make(feature_dir=folder / "features", mode="aligned")
    with caplog.at_level(logging.WARNING):
        rows = [source.classifier(SYNONYMS, "seen.jpg").rows for _ in range(2)]
    assert torch.equal(rows[0], make(mode="aligned").classifier(SYNONYMS, "seen.jpg").rows)
    assert source.usage()["feature_files_ignored"] == 2 and "feature_files" not in source.usage()
    assert caplog.text.count("not read") == 1


def test_feature_file_that_does_not_fit(make: MakeSource, folder: Path, feature_file: Path) -> None:
    document = json.loads(feature_file.read_text())
    rows = document["text_classifier"]
    cases: list[tuple[str, Any]] = [
        (r"class_index is \[0, 1\].*seen\.json gives \[0, 1, 2\]", {**document, "class_index": [0, 1]}),
        (r"test_num_templates is \[5, 10, 15\].*\[3, 6, 9\]", {**document, "test_num_templates": [5, 10, 15]}),
        ("17 rows of 24.*18 rows of 24", {**document, "text_classifier": rows[:-1]}),
        ("18 rows of 23.*18 rows of 24", {**document, "text_classifier": [row[:-1] for row in unit_lists(rows)]}),
        ("row 4 of text_classifier has norm 2", {**document, "text_classifier": scaled(rows, 4, 2.0)}),
        ("row 0 of text_classifier has norm nan", {**document, "text_classifier": scaled(rows, 0, float("nan"))}),
        ("all of one length", {**document, "text_classifier": [rows[0], rows[1][:-1]]}),
        ("all of one length", {**document, "text_classifier": [["x"]]}),
        ("no list text_classifier", {"test_num_templates": [], "class_index": []}),
        ("no list text_classifier, test_num_templates, class_index", [1, 2]),
    ]
    for message, changed in cases:
        feature_file.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message) as error:
            make(feature_dir=folder / "features").classifier(SYNONYMS, "seen.jpg")
        assert str(feature_file) in str(error.value)
    feature_file.write_text(json.dumps(document)[:-50])
    with pytest.raises(UserError, match="cut off"):
        make(feature_dir=folder / "features").classifier(SYNONYMS, "seen.jpg")


def unit_lists(rows: list[list[float]]) -> list[list[float]]:
    """Rows whose length stays 1 without their last number."""
    return torch.nn.functional.pad(unit(torch.tensor(rows)[:, :-1]), (0, 1)).tolist()


def scaled(rows: list[list[float]], number: int, factor: float) -> list[list[float]]:
    return [[value * factor for value in row] if index == number else row for index, row in enumerate(rows)]


def test_feature_file_round_trip_is_exact(make: MakeSource, folder: Path, feature_file: Path, direct) -> None:
    reasons = load_image(folder / "images" / "seen.json").reasons
    prompts = image_prompts(SYNONYMS, reasons, 3, "reference", "seen.json")
    assert prompts is not None
    rows = read_feature_file(feature_file, prompts, direct.dim)
    assert torch.equal(rows, make().classifier(SYNONYMS, "seen.jpg").rows)
    (folder / "blocked").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_feature_file(folder / "blocked" / "a.json", rows.numpy(), (3, 6, 9), (0, 1, 2))


def test_the_word_generic_stands_for_the_reasons_that_come_along(
    make: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    source = make(generic_file="generic", image_folders=(), image_specific=False)
    names = (("cat",), ("brinzal",))
    with caplog.at_level(logging.WARNING):
        (sentences,) = source.needs(names)
        classifier = source.classifier(names, "any.jpg")
    cat = reasons_for(vocabulary_of(names)).reasons["cat"]
    frames = template_set("vild")
    assert {*frames.fill(f"cat that has {cat.attributes[0]}"), *frames.fill("brinzal")} <= set(sentences)
    assert not any("brinzal that has" in sentence for sentence in sentences)
    assert classifier.class_index is None and len(classifier.rows_per_class) == 2, "both are compared"
    assert caplog.text.count("1 of 2 classes have one; without one, asked for by name: brinzal") == 1
    assert source.usage() == {"classes_by_name": 1, "generic_missing_file": 1}
    with pytest.raises(UserError, match="none of those that come along is of one of the 1 classes"):
        source.classifier((("brinzal",),), "any.jpg")


@pytest.mark.parametrize("names", ["synonyms", "sed_names"])
def test_a_benchmarks_names_have_its_own_shipped_file(make: MakeSource, names: str) -> None:
    """Whatever the data set is called, and not those of namesakes."""
    classes = getattr(load_vocabulary("pc59"), names)
    shipped, word = (make(generic_file=file, image_folders=()) for file in (shipped_file("pc59"), "generic"))
    assert list(word.needs(classes)) == list(shipped.needs(classes))
