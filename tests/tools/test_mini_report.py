"""Table, results.json and report of the mini world, from evaluations that the project's evaluators made."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from maft.errors import UserError
from maft.evaluation.evaluators import CombinedEvaluator, PanopticEvaluator, SemanticEvaluator
from maft.evaluation.results import results_folder, write_results
from reason.jsonfile import read_json
from reason.triplets import Reason, dump_image, load_image
from tools.mini import dataset, report
from tools.mini.__main__ import main
from tools.mini.dataset import Layout, prepare, register
from tools.mini.figure import draw_figure
from tools.mini.lmm.grading import CLASSES, present
from tools.mini.lmm.looks import VAL_NAMES, describe_scene
from tools.mini.lmm.steps import true_reason
from tools.mini.methods import CLOSED, main_methods, sed_methods, sweep_methods
from tools.mini.observer import LEVELS
from tools.mini.results import (
    DATASET,
    group_miou,
    read_evaluation,
    results_document,
    scores_of,
    table,
    weights_hash,
)
from tools.mini.scenes import render_scene
from tools.mini.sed_designs import design_methods
from tools.mini.world import GROUPS, VAL_CLASSES, values_of

IMAGES = {"train": 2, "val": 12, "closed": 2}
NEW = [index for index, entry in enumerate(VAL_CLASSES) if entry.group == "new"]
PROVENANCE = {"config_file": "configs/mini/eval_reason.yaml", "weights_file": "some.safetensors", "weights_hash": "abc"}
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def predict(labels: np.ndarray, method: str) -> np.ndarray:
    """What a method might say: names know no new class, generic reasons one of two, the others all."""
    kind = method.removeprefix("sed_")
    if kind.startswith("image"):
        return labels
    unknown = NEW if kind == "names" else NEW[::2]
    return np.where(np.isin(labels, unknown), 0, labels)


def evaluate(folder: Path, method: str, *, save: bool, dataset: str = DATASET, panoptic: bool = True) -> None:
    """Evaluate changed labels as if they were predictions."""
    records = DatasetCatalog.get(dataset)
    target = results_folder(folder, dataset)
    kinds = (SemanticEvaluator, PanopticEvaluator) if panoptic else (SemanticEvaluator,)
    evaluator = CombinedEvaluator([kind(dataset, target, save, records=records) for kind in kinds])
    found = {}
    for record in records:
        labels = torch.from_numpy(predict(np.asarray(Image.open(record["sem_seg_file_name"])), method).astype(np.int64))
        scores = (
            torch.nn.functional.one_hot(labels, len(MetadataCatalog.get(dataset).short_names)).permute(2, 0, 1).float()
        )
        segments = torch.from_numpy(np.asarray(Image.open(record["pan_seg_file_name"]))[..., 0].astype(np.int32))
        infos = [
            {"id": info["id"], "category_id": int(predict(np.array(info["category_id"]), method))}
            for info in record["segments_info"]
        ]
        found[record["file_name"]] = evaluator.process_one(
            record, {"sem_seg": scores, "panoptic_seg": (segments, infos)}
        )
    evaluation = {
        "metrics": evaluator.summarise(found),
        "images": {"total": len(found), "earlier_run": 0, "this_run": len(found)},
        "usage": {},
        "seconds": 1.0,
    }
    write_results(folder, dataset, evaluation, PROVENANCE if panoptic else {**PROVENANCE, "weights_hash": "sed"})


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    root = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "COUNTS", IMAGES)
        register(root)
    return Layout(root, "val")


@pytest.fixture(scope="module")
def output(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "COUNTS", IMAGES)
        for method in (*main_methods(layout), *sed_methods(layout)):
            evaluate(folder / method.name, method.name, save=method.shown, panoptic=method.panoptic)
        evaluate(folder / CLOSED.name, "image", save=False, dataset=CLOSED.dataset)
    return folder


@pytest.fixture(scope="module")
def page(layout: Layout, output: Path) -> Path:
    return report.write_report(layout, output, output / "report.html")


def evaluations(output: Path) -> dict[str, dict[str, Any]]:
    return {
        path.parent.parent.parent.name: read_json(path) for path in output.glob(f"*/inference/{DATASET}/results.json")
    }


def metrics(values: Mapping[int, tuple[float | None, int, int]]) -> dict[str, Any]:
    """The semantic metrics of a validation evaluation: class index to IoU, true and predicted pixels; else nothing."""
    return {
        "per_class": {
            entry.name: dict(zip(("IoU", "pixels", "predicted_pixels"), values.get(index, (None, 0, 0)), strict=True))
            for index, entry in enumerate(VAL_CLASSES)
        }
    }


def test_group_miou_is_the_references_restricted_to_the_group() -> None:
    first, second, third, fourth = NEW[:4]
    found = metrics(
        {0: (90.0, 9, 9), first: (60.0, 5, 5), second: (30.0, 5, 9), third: (None, 0, 7), fourth: (None, 0, 0)}
    )
    # Two that are there, one that is only predicted, and one that is neither: (60 + 30 + 0) / 3.
    assert group_miou(found, lambda entry: entry.group == "new") == pytest.approx(30.0)
    assert group_miou(found, lambda entry: entry.group == "seen") == pytest.approx(90.0)
    with pytest.raises(ValueError, match="none of these classes occurs"):
        group_miou(found, lambda entry: entry.group == "synonym")
    with pytest.raises(ValueError):
        group_miou({"per_class": {}}, lambda entry: True)


def test_results_json_has_the_stated_form_and_the_known_figures(output: Path) -> None:
    document = json.loads(json.dumps(results_document(evaluations(output))))
    methods = {"names", "generic", "image", "image_aligned"}
    assert document.keys() == methods | {"panoptic", "sed_names", "sed_generic", "sed_image"}
    assert document["sed_names"] == document["names"] and document["sed_image"] == document["image"]
    assert document["panoptic"].keys() == methods
    for method in methods:
        assert document[method].keys() == set(GROUPS)
        assert document["panoptic"][method].keys() == {"PQ", "SQ", "RQ"}
    assert document["names"]["new"] == 0
    assert document["names"]["synonym"] == document["image"]["seen"] == document["image"]["new"] == 100
    assert 0 < document["generic"]["new"] < 100
    assert document["names"]["seen"] < 100, "the first seen class was said in place of every new one"
    assert document["panoptic"]["image"] == {"PQ": 100, "SQ": 100, "RQ": 100}
    assert document["panoptic"]["names"]["PQ"] < document["panoptic"]["generic"]["PQ"] < 100


def test_table_has_a_row_a_method(output: Path) -> None:
    found = evaluations(output)
    lines = table(found, {name: name.upper() for name in found}).splitlines()
    assert len(lines) == 2 + len(found)
    row = next(line for line in lines if line.startswith("| IMAGE "))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["100.0"] * 7 + ["1.0"]
    row = next(line for line in lines if line.startswith("| SED_IMAGE "))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["100.0"] * 4 + ["-"] * 3 + ["1.0"]


class Page(HTMLParser):
    """What a page holds; fails where elements are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            assert dict(attrs)["alt"]
            self.images.append(str(dict(attrs)["src"]))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_shows_every_image_with_the_reason_that_made_the_difference(page: Path, layout: Layout) -> None:
    shown = Page(page)
    assert len(shown.images) == 8 * IMAGES["val"]  # image, truth, three results, segments, two results of SED
    for uri in shown.images:
        head, data = uri.split(",", 1)
        assert head == "data:image/webp;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data, validate=True))).size == (256, 256)
    with_new = sum(
        bool(set(np.unique(np.asarray(Image.open(path)))) & set(NEW)) for path in layout.annotations.glob("*.png")
    )
    assert shown.text.count("0% of its pixels right by names only, 100% with image-specific reasons") == with_new
    assert "The reasons were written by a Qwen2.5-VL" in shown.text
    assert "(2 other images, 16 classes): mIoU 100.0, PQ 100.0." in shown.text
    assert "random stand-ins" not in shown.text
    for entry in VAL_CLASSES:
        assert entry.name in shown.text
    text = re.sub(r'src="data:[^"]*"', "", page.read_text(encoding="utf-8"))
    assert not re.search(r"https?:|@import|url\(|src=|<link|<script|<iframe", text)


def test_what_the_model_wrote_is_shown_step_by_step_with_its_errors(
    layout: Layout, output: Path, tmp_path: Path
) -> None:
    """Reasons of images 0 and 1 are spoilt: a class is left out, one is made up, a value is another one."""
    made = tmp_path / "made"
    shutil.copytree(layout.reason_dir(), made / "image")
    shutil.copy(layout.generic_reason(), made / "generic.json")
    expected, marked = [], []
    for number in range(2):
        path = made / "image" / dataset.REASON_DATA / f"val_{number:04d}.json"
        scene, triplet = render_scene(number, "val"), load_image(path)
        there = present(scene)
        reasons = {name: true_reason(name, segments) for name, segments in there.items()}
        first, second = list(reasons)[:2]
        absent = next(entry.name for entry in VAL_CLASSES if entry.name not in there)
        del reasons[first]
        thing = CLASSES[second].kind.thing
        axis = "color" if thing else "tone"
        true = there[second][0].attributes[axis]
        other = next(value for value in values_of(thing)[axis] if value != true)
        texts = tuple(text.replace(true, other) for text in reasons[second].attributes)
        reasons[second] = replace(reasons[second], attributes=texts)
        reasons[absent] = Reason(absent, "object", "thing", ("a plain body",))
        untrue = describe_scene(scene, VAL_NAMES)
        untrue[0] = replace(untrue[0], name=absent)
        description = " ".join(look.sentence for look in untrue)
        dump_image(replace(triplet, reasons=reasons, extra={**triplet.extra, "description": description}), path)
        marked += [
            f'<span class="misread" title="in the image: {true}">{other}</span>',
            f'<span class="misread" title="in the image: {describe_scene(scene, VAL_NAMES)[0].name}">{absent}</span>',
        ]
        expected += [
            f"{first}: in the image, but not named",
            f"{absent}: named, but not in the image",
            f"{second}: misread, {axis} {other} in place of {true}",
            description,
        ]
    path = report.write_report(replace(layout, made=made), output, tmp_path / "report.html")
    text = Page(path).text
    for words in expected:
        assert words in text
    assert f"{absent} (wrong)" in text and f"{first} (missed)" in text
    for words in marked:
        assert words in path.read_text(encoding="utf-8")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_page_opens_in_a_browser_without_a_complaint(page: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    # The page itself allows no script; a copy counts what did not load.
    counting = tmp_path / "counting.html"
    script = (
        "<script>onload=()=>{const all=[...document.images];const bad=all.filter(i=>!i.complete||i.naturalWidth!=256);"
        "document.body.append(`images ${all.length} broken ${bad.length} wide ${document.body.scrollWidth}`)}</script>"
    )
    source = page.read_text(encoding="utf-8")
    counting.write_text(re.sub(r"<meta http-equiv[^>]*>", "", source).replace("</body>", script + "</body>"))
    words = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--hide-scrollbars",
        "--window-size=1280,900",
    ]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    for path in (page, counting):
        done = subprocess.run([*words, path.as_uri()], capture_output=True, text=True, timeout=240, check=True)
        assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert re.search(rf"images {8 * IMAGES['val']} broken 0 wide 1280<", done.stdout), done.stdout[-300:]


def test_sweep_is_shown_with_its_origin(layout: Layout, output: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(output, tmp_path / "out"))
    scores = scores_of(read_evaluation(folder / "image"))
    rows = [
        {"reasons": "image", "observer": level, "scores": scores}
        for level in (dataset.MODEL, *LEVELS, dataset.LIST_ONLY)
    ]
    sweep = {"weights_hash": "abc", "rows": rows}
    (folder / report.SWEEP_FILE).write_text(json.dumps(sweep))
    text = Page(report.write_report(layout, folder, folder / "report.html")).text
    for words in (
        "the model: image-specific reasons",
        "what if, 0% errors: image-specific reasons",
        "what if, 30% errors: image-specific reasons",
        "the model: generic reasons, of the classes it named",
    ):
        assert words in text
    assert "NOT with the weights" not in text
    (folder / report.SWEEP_FILE).write_text(json.dumps({**sweep, "weights_hash": "other"}))
    assert "NOT with the weights" in Page(report.write_report(layout, folder, folder / "report.html")).text


def test_methods_name_files_that_are_there(layout: Layout) -> None:
    methods = (*main_methods(layout), *sweep_methods(layout), *design_methods(layout))
    assert len({method.name for method in methods}) == len(methods) == 4 + 2 * len(LEVELS) + 1 + 9
    for method in methods:
        if method.reasons:
            assert Path(method.keys["MODEL.TEST_CLASS_REASON_JSON"]).is_file()
            folder = method.keys["MODEL.REASON_DIR"]
            assert bool(folder) == method.name.removeprefix("sed_").startswith("image")
            files = list((Path(folder) / dataset.REASON_DATA).glob("*.json")) if folder else []
            assert len(files) == (IMAGES["val"] if folder else 0)


def test_what_is_missing_or_mixed_is_one_line(layout: Layout, output: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; run bash eval_reason_base.sh mini"):
        report.write_report(layout, tmp_path, tmp_path / "report.html")
    folder = Path(shutil.copytree(output, tmp_path / "out"))
    (folder / "names" / "inference" / DATASET / "sem_seg" / "val_0003.png").unlink()
    with pytest.raises(UserError, match=r"val_0003.png: no prediction was saved"):
        report.write_report(layout, folder, folder / "report.html")
    found = [results for name, results in evaluations(output).items() if not name.startswith("sed_")]
    assert weights_hash(found) == "abc"
    with pytest.raises(UserError, match="different weights"):
        weights_hash([*found, {"provenance": {"weights_hash": "other"}}])


def test_command_line_refuses_half_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--", "MODEL.WEIGHTS"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: after --: ")
    assert error.count("\n") == 1


def test_the_figure_shows_what_reasons_change(tmp_path: Path) -> None:
    layout = prepare(tmp_path / "mini", splits=("val",), counts={"val": 2})["val"]
    path = draw_figure(layout, 1, tmp_path / "figure.png")
    with Image.open(path) as figure:
        assert figure.mode == "RGB" and figure.width == 4 * 288 + 5 * 16 and figure.height > 288 + 16
    with pytest.raises(UserError, match="val_0002.png: no such image"):
        draw_figure(layout, 2, tmp_path / "other.png")
