"""The page of results, from evaluations that the project's own evaluators made of known predictions."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reason.jsonfile import read_json
from tools.photos.__main__ import main
from tools.photos.pictures import agreement
from tools.photos.prepare import Layout, prepare
from tools.photos.runs import Run, read_prediction
from tools.pictures import NONE, Maps, overlay, shares

PHOTOGRAPHS = 8
SHIFT = (12, 18)
PROVENANCE = {"config_file": "configs/semantic/some_config.yaml", "weights_hash": "absent", "op_backend": "cpu"}
_VOID_ELEMENTS = {"meta", "img", "br", "link"}


class Checker(HTMLParser):
    """Collects what the page holds, and fails where elements are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def parse(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    return checker


def check_self_contained(path: Path) -> Checker:
    page = parse(path)
    text = re.sub(r'src="data:[^"]*"', "", path.read_text(encoding="utf-8"))
    assert not re.search(r"https?:|//[a-z]|@import|url\(|src=|<link|<script|<iframe", text)
    for image in page.attributes("img"):
        head, data = str(image["src"]).split(",", 1)
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.load()
            assert max(picture.size) <= 640
        assert image["alt"]
    return page


def evaluate(root: Path, out: Path, *, weights: str | None, usage: dict[str, int]) -> None:
    """Evaluate the labels, shifted by a few pixels, as if they were predictions, and save everything."""
    import torch
    from detectron2.data import DatasetCatalog

    from maft.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator
    from maft.evaluation.results import results_folder, write_results
    from tools.photos.datasets import register

    classes = len(read_json(root / "vocabulary.json")["classes"])
    for name, evaluator_class in zip(register(root), (SemanticEvaluator, PanopticEvaluator), strict=True):
        evaluator = evaluator_class(name, results_folder(out, name), save_predictions=True)
        records = {}
        for record in DatasetCatalog.get(name):
            output: dict[str, Any]
            if evaluator_class is SemanticEvaluator:
                labels = np.asarray(Image.open(record["sem_seg_file_name"])).astype(np.int64)
                shifted = torch.from_numpy(np.where(labels == 255, 2, np.roll(labels, SHIFT, (0, 1))) % classes)
                output = {"sem_seg": torch.nn.functional.one_hot(shifted, classes).permute(2, 0, 1).float()}
            else:
                ids = np.roll(
                    np.asarray(Image.open(record["pan_seg_file_name"]))[..., 0].astype(np.int32), SHIFT, (0, 1)
                )
                infos = [{key: info[key] for key in ("id", "category_id")} for info in record["segments_info"]]
                output = {"panoptic_seg": (torch.from_numpy(ids), infos)}
            records[record["file_name"]] = evaluator.process_one(record, output)
        result = {
            "metrics": evaluator.summarise(records),
            "images": {"total": len(records), "earlier_run": 0, "this_run": len(records)},
            "usage": usage,
            "seconds": 1.0,
        }
        write_results(out, name, result, {**PROVENANCE, "weights_file": weights, "reasons": {"attributes": 3}})


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return prepare(tmp_path_factory.mktemp("photos") / "data")


@pytest.fixture(scope="module")
def evaluated(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("evaluated")
    evaluate(layout.root, out_dir, weights=None, usage={"image": PHOTOGRAPHS})
    return out_dir


@pytest.fixture
def out(evaluated: Path, tmp_path: Path) -> Path:
    """An evaluation of its own, with seeded weights, to write to."""
    return Path(shutil.copytree(evaluated, tmp_path / "run"))


def report(layout: Layout, *out_dirs: Path) -> Path:
    assert main(["report", "--root", str(layout.root), *map(str, out_dirs)]) == 0
    return out_dirs[0] / "report.html"


def test_page_shows_everything_and_needs_nothing_else(layout: Layout, out: Path) -> None:
    page = check_self_contained(report(layout, out))
    assert len(page.attributes("img")) == 4 * PHOTOGRAPHS  # photograph, labels, semantic, panoptic
    assert page.text.count("of the labelled pixels agree") == 2 * PHOTOGRAPHS
    assert page.text.count("Reasons for this photograph (the first 3 attributes of each were used)") == PHOTOGRAPHS
    assert "a smiling woman with short brown hair; an orange pressure suit" in page.text
    for dataset, task, keys in (
        ("photos_sem_seg_val", "sem_seg", ("mIoU_reference", "mIoU_present", "fwIoU", "mACC", "pACC")),
        ("photos_panoptic_val", "panoptic_seg", ("PQ", "SQ", "RQ")),
    ):
        metrics = read_json(out / "inference" / dataset / "results.json")["metrics"][task]
        values = metrics if task == "sem_seg" else metrics["all"]
        assert all(30 < values[key] < 99 for key in keys)
        assert " ".join(f"{values[key]:.1f}" for key in keys) in page.text
    assert "image: 8" in page.text
    assert "some_config, semantic" in page.text


def test_seeded_weights_are_said_loudly_and_published_ones_are_named(layout: Layout, out: Path, tmp_path: Path) -> None:
    seeded = parse(report(layout, out))
    assert [banner["role"] for banner in seeded.attributes("div") if banner.get("class") == "banner"] == ["alert"]
    assert "The segmentation on this page means nothing" in seeded.text
    assert "SEEDED (random)" in seeded.text
    published = Path(shutil.copytree(out, tmp_path / "published"))
    for path in published.glob("inference/*/results.json"):
        results = read_json(path)
        results["provenance"]["weights_file"] = "pretrained/maftp_b.pth"
        path.write_text(json.dumps(results))
    page = parse(report(layout, published))
    assert not [banner for banner in page.attributes("div") if banner.get("class") == "banner"]
    assert "means nothing" not in page.text
    assert "maftp_b.pth" in page.text
    both = parse(report(layout, published, out))
    assert f"some_config ({out}): Seeded weights" in both.text
    assert len(both.attributes("img")) == 6 * PHOTOGRAPHS


def test_what_is_missing_or_damaged_is_said_in_its_place(layout: Layout, out: Path) -> None:
    semantic, panoptic = (out / "inference" / name for name in ("photos_sem_seg_val", "photos_panoptic_val"))
    (semantic / "sem_seg" / "coffee.png").unlink()
    whole = (semantic / "sem_seg" / "china.png").read_bytes()
    (semantic / "sem_seg" / "china.png").write_bytes(whole[:200])
    Image.new("L", (10, 10)).save(semantic / "sem_seg" / "rocket.png")
    Image.new("L", (640, 427), 200).save(semantic / "sem_seg" / "flower.png")
    (panoptic / "panoptic_seg.json").unlink()
    (panoptic / "results.json").unlink()
    page = check_self_contained(report(layout, out))
    assert len(page.attributes("img")) == 3 * PHOTOGRAPHS - 4
    assert page.text.count("No prediction was saved") == 1
    assert "it has 10x10 pixels, the picture 640x427" in page.text
    assert "The prediction is no map of 24 classes: flower.png" in page.text
    assert page.text.count("panoptic_seg.json: no such file") == PHOTOGRAPHS
    assert "not finished: there is no results.json" in page.text
    assert page.text.count("The prediction cannot be shown") == 2 + PHOTOGRAPHS


def test_reasons_that_were_not_used_are_not_claimed(layout: Layout, out: Path) -> None:
    for usage, words in (
        ({"generic_missing_file": PHOTOGRAPHS}, "Generic reasons of the labelled classes"),
        ({"plain": PHOTOGRAPHS}, "Reasons for this photograph (not used: class names only)"),
    ):
        for path in (out / "inference").glob("*/results.json"):
            path.write_text(json.dumps({**read_json(path), "usage": usage}))
        page = parse(report(layout, out))
        assert page.text.count(words) == PHOTOGRAPHS
        assert ("pointed triangular ears" in page.text) == ("generic_missing_file" in usage)


def test_names_are_escaped(tmp_path: Path) -> None:
    layout = prepare(tmp_path / "data")
    attack = "<script>alert(1)</script>\"'&"
    vocabulary = read_json(layout.vocabulary)
    cat = next(entry for entry in vocabulary["classes"] if entry["name"] == "cat")
    cat["name"], cat["synonyms"] = attack, [attack]
    layout.vocabulary.write_text(json.dumps(vocabulary))
    triplet_file = layout.image_reason / "chelsea.json"
    triplet = read_json(triplet_file)
    reasons = triplet["reasoning"]["map_class_reason"]
    reasons[attack] = {"reason1": attack, "reason2": attack, "reason3": [attack, attack]}
    triplet["description"] = attack
    triplet_file.write_text(json.dumps(triplet))
    evaluate(layout.root, tmp_path / "run", weights=attack, usage={attack: 1, "image": 1})
    page = check_self_contained(report(layout, tmp_path / "run"))
    assert not page.attributes("script")
    assert page.text.count(attack) >= 12


def test_errors_are_one_line(layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken" / "inference" / "photos_sem_seg_val"
    broken.mkdir(parents=True)
    (broken / "results.json").write_text('{"metrics": ')
    empty = tmp_path / "unprepared"
    cases = (
        (["report", "--root", str(layout.root), str(tmp_path / "none")], "holds no evaluation of the photographs"),
        (["report", "--root", str(layout.root), str(tmp_path / "broken")], "results.json: not valid JSON"),
        (["report", "--root", str(empty), str(tmp_path / "broken")], "not valid JSON"),
    )
    for arguments, words in cases:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert words in error
        assert error.count("\n") == 1
    (broken / "results.json").write_text('{"metrics": {}}')
    assert main(["report", "--root", str(empty), str(tmp_path / "broken")]) == 2
    assert f"run python -m tools.photos prepare --root {empty}" in capsys.readouterr().err


def test_overlay_tints_labelled_pixels_and_draws_borders() -> None:
    picture = np.full((4, 6, 3), 100, dtype=np.uint8)
    classes = np.array([[0, 0, 0, 1, 1, NONE]] * 4, dtype=np.int32)
    shown = overlay(picture, Maps(classes, classes), [(255, 0, 0), (0, 0, 255)])
    assert (shown[:, 3] == 255).all()
    assert (shown[:, 5] == 255).all()
    assert (shown[:, 0] == [196, 38, 38]).all()  # 0.38 * 100 + 0.62 * color
    assert (shown[:, 4] == [38, 38, 196]).all()
    unlabelled = np.full((4, 6), NONE, dtype=np.int32)
    assert (overlay(picture, Maps(unlabelled, unlabelled), [(255, 0, 0)]) == 188).all()  # 0.35 * 100 + 0.65 * 235
    assert shares(Maps(classes, classes)) == [(0, 0.5), (1, pytest.approx(1 / 3))]


def test_agreement_counts_labelled_pixels() -> None:
    truth = np.array([[0, 1, 1, NONE]], dtype=np.int32)
    prediction = np.array([[0, 1, 0, 0]], dtype=np.int32)
    assert agreement(Maps(prediction, prediction), Maps(truth, truth)) == pytest.approx(2 / 3)
    nothing = np.full((1, 4), NONE, dtype=np.int32)
    assert np.isnan(agreement(Maps(prediction, prediction), Maps(nothing, nothing)))


def test_sixteen_bit_label_maps_are_read_unclipped(tmp_path: Path) -> None:
    values = np.array([[0, 300, 846]], dtype=np.uint16)
    (tmp_path / "sem_seg").mkdir()
    Image.fromarray(values).save(tmp_path / "sem_seg" / "a.png")
    maps = read_prediction(Run("run", tmp_path, {}), "sem_seg", "a", 847)
    assert isinstance(maps, Maps)
    assert maps.classes.tolist() == values.tolist()
    assert isinstance(read_prediction(Run("run", tmp_path, {}), "sem_seg", "a", 846), str)
