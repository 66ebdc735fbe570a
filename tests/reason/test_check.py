"""The linter finds nothing in the shipped reasons, and every fault that it is made for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reason.check import Ruler, check_reasons, read_reasons, ruler
from reason.cli.main import main
from reason.triplets import load_generic
from reason.vocabulary import known_vocabularies, load_vocabulary

WRITTEN = Path(__file__).resolve().parents[2] / "reason_data/general_reason/written"
WORDS = Ruler("words", 8, lambda text: len(text.split()))
VOC20 = WRITTEN / "voc20_class_reason.json"


@pytest.mark.parametrize("name", known_vocabularies())
def test_the_shipped_reasons_have_no_findings(name: str) -> None:
    reasons, generic = read_reasons(WRITTEN / f"{name}_class_reason.json")
    assert generic and check_reasons(reasons, load_vocabulary(name), generic=True, measure=ruler()) == []


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("comma", lambda entry: entry["class_des"].append("long, thin tail")),
        ("name", lambda entry: entry["class_des"].append("many birds")),
        ("count", lambda entry: entry["class_des"].__delitem__(slice(4, None))),
        ("count", lambda entry: entry["class_des"].extend("one two three four".split())),
        ("repeated", lambda entry: entry["class_des"].append(entry["class_des"][0].upper())),
        ("forbidden", lambda entry: entry["class_des"].append("claws used for climbing")),
        ("forbidden", lambda entry: entry["class_des"].append("a loud cry")),
        (
            "long",
            lambda entry: entry["class_des"].append(
                "a row of so very many words that no reader ever comes to the end of it"
            ),
        ),
    ],
)
def test_a_fault_of_one_class_is_found(rule: str, change: object, tmp_path: Path) -> None:
    document = json.loads(VOC20.read_text(encoding="utf-8"))
    change(document["bird"])  # type: ignore[operator]
    path = tmp_path / "file.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    for measure in (WORDS, ruler()):
        found = check_reasons(load_generic(path), load_vocabulary("voc20"), generic=True, measure=measure)
        assert [(finding.rule, finding.name) for finding in found] == [(rule, "bird")]


def test_faults_between_classes_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(VOC20.read_text(encoding="utf-8"))
    document["cat"]["class_des"][:3] = document["dog"]["class_des"][2::-1]
    document["unicorn"] = document.pop("bird")
    path = tmp_path / "file.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert main(["check", str(path), "--vocabulary", "voc20"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "20 generic reasons, 3 findings; length counted in" in lines[-1]
    assert [line.split(": ")[1:3] for line in lines[:3]] == [
        ["dog", "same-first"],
        ["unicorn", "unknown"],
        ["bird", "missing"],
    ]


def test_an_image_file_need_not_hold_every_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "image.json"
    entries = {"bird": {"reason1": "animal", "reason2": "flyer", "reason3": ["pointed beak"]}}
    path.write_text(json.dumps({"reasoning": {"map_class_reason": entries}}), encoding="utf-8")
    assert main(["check", str(path), "--vocabulary", "voc20"]) == 0
    assert "1 image-specific reasons, 0 findings" in capsys.readouterr().out


def test_a_file_that_cannot_be_read_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{"bird": {"class_des": []}}', encoding="utf-8")
    assert main(["check", str(path)]) == 2
    assert "'class_des'" in capsys.readouterr().err
