"""The results table, over evaluations that maft.evaluation really made: small networks on small images."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image
from torch import nn

from maft.data import InferenceMapper, register_all
from maft.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator
from maft.evaluation.journal import FINISHED, FOLDER
from maft.evaluation.loop import evaluate
from maft.evaluation.provenance import collect as provenance_of
from maft.evaluation.results import results_folder, write_results
from maft.files import encode_panoptic
from tools.results_table.__main__ import main
from tools.results_table.collect import collect
from tools.results_table.latex import escape
from tools.results_table.plain import CSV_HEADER
from tools.results_table.table import Cell, build
from tools.results_table.words import cell_words

VOC, PC59, PC459 = (f"openvocab_pascal{name}_sem_seg_val" for name in ("20", "_ctx59", "_ctx459"))
PANOPTIC = "openvocab_ade20k_panoptic_val"
WHOLE_VOC = 1449
HOSTILE = 'a_b&c%d$e#f{g}~h^i\\j|k"l<script>alert(1)</script>'


class Network(nn.Module):
    """Reads the class from a pixel's red channel, and adds `shift` to it from class 3 on; as segments, too."""

    def __init__(self, classes: int, shift: int) -> None:
        super().__init__()
        self.classes, self.shift = classes, shift

    def forward(self, inputs: list[dict]) -> list[dict]:
        outputs = []
        for record in inputs:
            written = record["image"][0].long() // 10
            found = (written + self.shift * (written >= 3)) % self.classes
            scores = nn.functional.one_hot(found, self.classes).movedim(-1, 0).float()
            infos = [{"id": int(c) + 1, "category_id": int(c), "isthing": False} for c in found.unique()]
            outputs.append({"sem_seg": scores, "panoptic_seg": ((found + 1).int(), infos)})
        return outputs


def write_images(folder: Path, count: int) -> list[dict]:
    """Records of images whose red channel is ten times their label: two real ones, and hard links to them."""
    folder.mkdir(parents=True, exist_ok=True)
    label = np.repeat(np.array([[0, 1, 2, 3, 255, 5]], dtype=np.uint8), 4, axis=0)
    Image.fromarray(label).save(folder / "label.png")
    Image.fromarray(np.repeat((label * 10)[..., None], 3, axis=-1)).save(folder / "000000.png")
    ids = np.where(label == 255, 0, label.astype(np.int64) + 1)
    Image.fromarray(encode_panoptic(ids)).save(folder / "panoptic.png")
    infos = [{"id": int(i), "category_id": int(i) - 1, "iscrowd": 0} for i in np.unique(ids) if i]
    records = []
    for number in range(count):
        path = folder / f"{number:06d}.png"
        if not path.exists():
            os.link(folder / "000000.png", path)
        records.append(
            {
                "file_name": str(path),
                "image_id": number,
                "sem_seg_file_name": str(folder / "label.png"),
                "pan_seg_file_name": str(folder / "panoptic.png"),
                "segments_info": infos,
            }
        )
    return records


def an_evaluation(
    folder: Path,
    dataset: str,
    *,
    images: int = 2,
    shift: int = 0,
    config: str = "configs/semantic/eval_base_reason.yaml",
    weights: str | None = "maftp_b.pth",
    usage: Callable[[], dict[str, int]] | None = None,
    reasons: bool = True,
    finish: bool = True,
    code: str = "c0de",
) -> Path:
    """Evaluate a small network under a registered name and write its results; returns the folder of the data set."""
    register_all()
    records = write_images(folder / "images", images)
    kind = PanopticEvaluator if dataset == PANOPTIC else SemanticEvaluator
    target = results_folder(folder, dataset)
    file = None
    if weights is not None:
        file = folder / weights
        file.write_bytes(weights.encode())
    parts = {"config": "c1", "weights": "seeded" if file is None else "abc", "triplets": "d0d0", "code": code}
    evaluation = evaluate(
        Network(len(MetadataCatalog.get(dataset).stuff_classes), shift),
        dataset,
        records,
        InferenceMapper(short_edge=0),
        kind(dataset, target, records=records),
        output_dir=target,
        batch_size=16,
        fingerprint=parts,
        usage=usage,
    )
    assert evaluation is not None
    if finish:
        provenance = provenance_of(
            config_file=config,
            weights_file=None if file is None else str(file),
            fingerprint=parts,
            op_backend="plain",
            extra={
                "architecture": "MAFT_Plus_Reason" if reasons else "MAFT_Plus",
                "reasons": {"mode": "reference", "attributes": 3} if reasons else {"mode": "class names only"},
            },
        )
        write_results(folder, dataset, evaluation, provenance)
    return target


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results as the evaluation scripts leave it."""
    root = tmp_path_factory.mktemp("out")
    counters = {"image": 0, "generic_missing_file": 0}

    def usage() -> dict[str, int]:
        counters["generic_missing_file"] += 1
        return dict(counters)

    base = root / "semantic" / "evaluation_base_reason"
    an_evaluation(make(base / "voc20"), VOC, images=WHOLE_VOC, shift=0)
    an_evaluation(make(base / "pc59"), PC59, shift=1, usage=usage, code="other")
    an_evaluation(make(base / "pc459"), PC459, finish=False)
    large = root / "semantic" / "evaluation_large"
    an_evaluation(
        make(large / "voc20"), VOC, weights=None, config="configs/semantic/eval_large.yaml", shift=1, reasons=False
    )
    pano = "configs/panoptic/eval.yaml"
    an_evaluation(make(root / "panoptic"), PANOPTIC, config=pano, weights="maftp_l_pano.pth", reasons=False)
    an_evaluation(make(root / HOSTILE.replace("/", "")), VOC, config=f"{HOSTILE}.yaml", weights="own.pth")
    return root


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def render(out: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(out), "--format", kind]) == 0
    return capsys.readouterr().out


def lines_of(out: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(out, "csv", capsys))))


def one(lines: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    found = [line for line in lines if all(line[name] == value for name, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def test_csv_read_again_has_the_figures_of_the_results(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(out, capsys)
    assert tuple(lines[0]) == CSV_HEADER
    path = out / "semantic/evaluation_base_reason/voc20/inference" / VOC / "results.json"
    results = json.loads(path.read_text())
    method = "OpenSeg-R, MAFT+ base"
    cell = one(lines, method=method, data_set=VOC, row="measured", metric="mIoU_reference")
    value = results["metrics"]["sem_seg"]["mIoU_reference"]
    assert float(cell["value"]) == value == 100.0, "the network is right everywhere"
    assert float(cell["difference"]) == pytest.approx(value - 96.1)
    assert (cell["state"], cell["images"], cell["results_file"]) == ("measured", str(WHOLE_VOC), str(path))
    provenance = results["provenance"]
    assert cell["weights_hash"] == "abc" and cell["triplets_hash"] == "d0d0" and cell["code_hash"] == "c0de"
    assert cell["commit"] == provenance["commit"] and cell["config_file"] == provenance["config_file"]


def test_published_figures_and_missing_cells(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(out, capsys)
    published = {
        "MAFT+ base": "13.8 16.2 34.6 57.5 95.4",
        "OpenSeg-R, MAFT+ base": "15.2 15.5 35.5 59.0 96.1",
        "MAFT+ large": "15.1 21.6 36.1 59.4 96.5",
        "OpenSeg-R, MAFT+ large": "16.8 17.1 37.1 60.3 96.2",
    }
    for method, figures in published.items():
        found = [line for line in lines if line["method"] == method and line["row"] == "published"]
        semantic = [line["value"] for line in found if line["metric"].startswith("mIoU")]
        assert semantic == figures.split(), method
    panoptic = [line["value"] for line in lines if line["row"] == "published" and line["metric"] in ("PQ", "SQ", "RQ")]
    assert panoptic == ["27.1", "73.5", "32.9", "", "", ""]
    missing = one(lines, method="MAFT+ base", data_set=VOC, row="measured")
    assert (missing["state"], missing["value"], missing["results_file"]) == ("missing", "", "")


def test_both_definitions_stand_where_they_differ(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PC-59: of five classes that occur three are right, and two others are predicted instead of the rest."""
    lines = lines_of(out, capsys)
    for row, metric, value in (
        ("measured", "mIoU_reference", 100 * 3 / 7),
        ("measured, mIoU_present", "mIoU_present", 100 * 3 / 5),
    ):
        cell = one(lines, method="OpenSeg-R, MAFT+ base", data_set=PC59, row=row, metric=metric)
        assert float(cell["value"]) == pytest.approx(value)
        assert cell["state"] == "part" and cell["difference"] == "", "two images are not PC-59"
    rows = {line["row"] for line in lines if line["data_set"] == PANOPTIC}
    assert not any("mIoU_present" in row for row in rows)


def test_seeded_results_are_marked_and_not_compared(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = one(lines_of(out, capsys), method="MAFT+ large", data_set=VOC, state="seeded", metric="mIoU_reference")
    assert cell["difference"] == "" and cell["weights_file"] == "seeded" and "random weights" in cell["row"]
    page = render(out, "md", capsys)
    assert "**Figures marked † were made with random stand-in weights: they mean nothing.**" in page
    assert re.search(r"measured, random weights.*\d†", page)


def test_what_else_a_reader_must_know_is_noted(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = render(out, "md", capsys).replace("\\", "")
    assert re.search(rf"Unfinished: .*{PC459} has not been evaluated to the end, 2 images so far", page)
    assert re.search(r"\[\d+\]: generic reasons stood in for image-specific ones in 1 image\.", page)
    assert "were made with 2 versions of the code" in page
    assert "‡ evaluated on another number of images" in page


def test_results_set_aside_do_not_count_and_broken_ones_are_named(out: Path, tmp_path: Path) -> None:
    target = an_evaluation(tmp_path, VOC)
    aside = target / "earlier-1"
    aside.mkdir()
    (aside / "results.json").write_bytes((target / "results.json").read_bytes())
    broken = tmp_path / "more/inference/x/results.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"dataset": "x", "metrics": {"sem_seg": {}}')
    found = collect([tmp_path, tmp_path])
    assert [result.path for result in found.results] == [target / "results.json"]
    assert len(found.problems) == 1 and str(broken) in found.problems[0]
    (target / FOLDER / FINISHED).unlink()
    assert "is being evaluated anew" in collect([tmp_path]).unfinished[0]


def test_a_data_set_twice_in_one_method_makes_two_rows(tmp_path: Path) -> None:
    for name in ("first", "second"):
        an_evaluation(make(tmp_path / name), VOC)
    rows = [row for row in build(collect([tmp_path])).tables[0].rows if row.method == "OpenSeg-R, MAFT+ base"]
    kinds = [row.kind for row in rows if row.kind.startswith("measured")]
    assert kinds == ["measured, first", "measured, second"]


def test_markdown_tables_are_rectangular(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    widths = []
    for line in render(out, "md", capsys).splitlines():
        if line.startswith("|"):
            widths.append(len(re.split(r"(?<!\\)\|", line)) - 2)
        elif widths:
            assert len(set(widths)) == 1, widths
            widths = []


def test_latex_is_balanced_and_escaped(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = render(out, "tex", capsys)
    open_environments: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert not open_environments and text.count(r"\begin{table}") == 3
    code = "\n".join(line for line in text.splitlines() if not line.startswith("% "))
    bare = re.sub(r"\\[\\&%$#_{}~^]", "", code)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not re.search(r"[%#]", bare.replace("{%\n", "")), "what is left of % and # would be read as LaTeX"
    assert not re.search(r"_", bare)
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", code, flags=re.DOTALL):
        rows = [line for line in tabular[1].splitlines() if line.endswith(r"\\")]
        assert rows
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(tabular[0])}
    assert not [sign for sign in text if ord(sign) > 127], "plain ASCII needs no input encoding"


def test_latex_escapes_every_special_character() -> None:
    assert escape("a_b & 5% \\ {x}") == r"a\_\allowbreak{}b \& 5\% \textbackslash{} \{x\}"
    assert escape("é") == "é" and escape("−†") == r"$-$$^\dagger$"


class Reader(html.parser.HTMLParser):
    """Checks that tags are balanced, and keeps tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_html_is_self_contained_balanced_and_escaped(out: Path, tmp_path: Path) -> None:
    target = tmp_path / "results.html"
    assert main([str(out), "--output", str(target)]) == 0
    page = Reader()
    page.feed(target.read_text(encoding="utf-8"))
    assert not page.open
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe"}
    assert "<script" not in target.read_text() and "url(" not in target.read_text()
    assert any("<script>alert(1)" in words for words in page.words), "shown, not run"
    targets = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links and {link.removeprefix("#") for link in links if link} == targets
    states = [attributes.get("class") for tag, attributes in page.tags if tag == "td"]
    assert {"number measured", "number seeded", "number part", "number missing"} <= set(states)


def test_signs_of_differences() -> None:
    assert cell_words(Cell("measured", 15.0, -0.2, 1)).difference == "−0.20"
    assert cell_words(Cell("measured", 15.0, 0.204, 1)).difference == "+0.20"
    assert cell_words(Cell("measured", 15.0, -0.001, 1)).difference == "±0.00"
    assert cell_words(Cell("seeded", 15.0, None, 1)).figure == "15.00†"


def test_a_folder_without_results_still_gives_the_published_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = render(tmp_path, "md", capsys)
    assert "No finished evaluation was found" in page and "| 96.1 |" in page and page.count("missing") == 8 * 5 + 2 * 3
    for kind in ("tex", "html", "csv"):
        assert render(tmp_path, kind, capsys)


def test_user_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, part in (
        ([str(tmp_path / "none")], "none: no such folder"),
        ([str(tmp_path), "--output", str(tmp_path / "table.pdf")], "end it in .md, .tex, .csv, .html"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and part in error and error.count("\n") == 1


def test_the_network_of_these_tests_is_what_it_says() -> None:
    """Without this the figures above could agree by chance."""
    image = {"image": torch.tensor([[[0, 10], [20, 30]]]).expand(3, 2, 2)}
    assert Network(20, 1)([image])[0]["sem_seg"].argmax(0).tolist() == [[0, 1], [2, 4]]


def test_mini_has_short_headers_rows_by_what_was_given_and_its_own_file_is_taken(tmp_path: Path) -> None:
    qualities = {"PQ": 40.0, "SQ": 80.0, "RQ": 50.0}
    for method, value in (("names", 30.0), ("image", 60.0)):
        metrics = {"sem_seg": {"mIoU_reference": value, "mIoU_present": value}, "panoptic_seg": {"all": qualities}}
        place = tmp_path / "mini" / method / "inference" / "mini_val_panoptic"
        place.mkdir(parents=True)
        config = f"configs/mini/eval{'_reason' if method == 'image' else ''}.yaml"
        content = {"dataset": "mini_val_panoptic", "metrics": metrics, "images": {"total": 120}}
        content["provenance"] = {"config_file": config, "weights_file": "tools/mini/weights/mini.safetensors"}
        (place / "results.json").write_text(json.dumps(content))
    own = tmp_path / "mini" / "results.json"
    own.write_text(json.dumps({"names": {"seen": 1.0}, "panoptic": {"names": qualities}}))
    for given in (own, tmp_path):
        report = build(collect([given]))
        assert not [note for note in report.notes if note.startswith("Left out")]
        semantic, panoptic = report.tables
        assert semantic.columns[-1].title == "mini"
        assert [column.title for column in panoptic.columns[-3:]] == ["mini PQ", "mini SQ", "mini RQ"]
        rows = {row.method: row.cells[-1].value for row in semantic.rows if row.method.startswith("mini")}
        assert rows == {"mini, names only": 30.0, "mini, image-specific reasons": 60.0}


def test_instances_have_a_table_of_their_own(tmp_path: Path) -> None:
    place = tmp_path / "inference" / "openvocab_ade20k_instance_val"
    place.mkdir(parents=True)
    metrics = {"AP": 20.0, "AP50": 30.0, "AP75": 21.0, "APs": None, "APm": 10.0, "APl": 40.0}
    content = {"dataset": place.name, "metrics": {"instances": metrics}, "images": {"total": 2000}}
    (place / "results.json").write_text(json.dumps(content))
    table = build(collect([tmp_path])).tables[-1]
    assert table.title == "Instances, AP of masks"
    assert [cell.value for cell in table.rows[-1].cells] == [20.0, 30.0, 21.0, None, 10.0, 40.0]
