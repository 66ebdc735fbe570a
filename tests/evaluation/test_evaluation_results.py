"""Result files, tables and provenance."""

import json
import logging
import os
import subprocess

import evaluation_scene as scene
import pytest

from maft.errors import UserError
from maft.evaluation import provenance
from maft.evaluation.results import results_folder, summary, write_results


@pytest.fixture
def evaluation(tmp_path):
    data = tmp_path / "data"
    scene.build(data, 4)
    return scene.run(data, tmp_path / "run")


def test_results_json_holds_metrics_counts_and_provenance(evaluation, tmp_path):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"weights")
    block = provenance.collect(
        config_file="a.yaml",
        weights_file=str(weights),
        fingerprint={"config": "1"},
        op_backend="python",
        extra={"triplets_folder": "t"},
    )
    path = write_results(tmp_path, "some_set", evaluation, block)
    assert path == results_folder(tmp_path, "some_set") / "results.json"
    content = json.loads(path.read_text())
    assert content["dataset"] == "some_set"
    assert content["metrics"] == evaluation["metrics"]
    assert {"mIoU_reference", "mIoU_present"} <= content["metrics"]["sem_seg"].keys()
    assert list(content["metrics"]["sem_seg"]["per_class"]) == scene.CLASSES
    assert content["images"] == {"total": 4, "earlier_run": 0, "this_run": 4}
    assert content["usage"] == {"generic": 2, "image": 2}
    written = content["provenance"]
    assert written["weights_hash"] == provenance.hash_file(weights)
    assert written["versions"]["torch"] == scene.torch.__version__
    assert written["versions"]["detectron2"].split()[0] in ("real", "subset")
    assert (written["op_backend"], written["triplets_folder"]) == ("python", "t")
    assert written["commit"] == provenance.commit()


def test_the_table_for_people_names_both_definitions(evaluation, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    page = write_results(tmp_path, "some_set", evaluation, {"config_file": "a.yaml"}).with_suffix(".md").read_text()
    for text in (page, caplog.text):
        assert "mIoU_reference" in text
        assert "mIoU_present" in text
        assert f"{evaluation['metrics']['sem_seg']['mIoU_present']:.3f}" in text
        assert f"{evaluation['metrics']['panoptic_seg']['all']['PQ']:.3f}" in text
        assert "reasons: generic 2, image 2" in text
    assert "- config_file: a.yaml" in page
    assert all(f"| {name} " in page for name in scene.CLASSES)


def test_the_summary_has_a_row_per_data_set_and_task(evaluation):
    text = summary({"first": evaluation, "second": evaluation})
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["semantic", "first", "second", "panoptic", "first", "second"]


def test_a_folder_that_cannot_be_written_is_a_user_error(evaluation, tmp_path):
    (tmp_path / "inference").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_results(tmp_path, "some_set", evaluation, {})


def test_a_file_is_hashed_anew_when_it_changes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = provenance.hash_file(path)
    assert first == provenance.hash_file(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert provenance.hash_file(path) != first
    with pytest.raises(UserError, match="none"):
        provenance.hash_file(tmp_path / "none")


def test_a_folder_hash_sees_names_and_contents_but_not_the_place(tmp_path):
    for place in ("x", "y"):
        (tmp_path / place / "sub").mkdir(parents=True)
        (tmp_path / place / "sub" / "a.json").write_text("1")
        (tmp_path / place / "b.json").write_text("2")
    first = provenance.hash_folder(tmp_path / "x")
    assert first == provenance.hash_folder(tmp_path / "y")
    (tmp_path / "y" / "notes.txt").write_text("not a triplet")
    assert first == provenance.hash_folder(tmp_path / "y")
    (tmp_path / "y" / "b.json").rename(tmp_path / "y" / "c.json")
    assert first != provenance.hash_folder(tmp_path / "y")
    assert provenance.hash_folder(tmp_path / "none") == provenance.ABSENT


def test_the_config_hash_leaves_out_what_changes_no_result():
    config = {"MODEL": {"WEIGHTS": "a"}, "OUTPUT_DIR": "x", "DATALOADER": {"NUM_WORKERS": 1}}
    same = {**config, "OUTPUT_DIR": "y", "DATALOADER": {"NUM_WORKERS": 8}}
    other = {**config, "MODEL": {"WEIGHTS": "b"}}
    assert provenance.hash_config(config) == provenance.hash_config(same) != provenance.hash_config(other)


def test_the_commit_is_that_of_the_checkout_and_says_when_files_were_changed(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert provenance.commit(tmp_path) == provenance.ABSENT
    git("init", "-q")
    assert provenance.commit(tmp_path) == provenance.ABSENT, "there is no commit yet"
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "first")
    git("tag", "v1")
    assert provenance.commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "new").write_text("not tracked")
    assert provenance.commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a").write_text("2")
    assert provenance.commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
    (tmp_path / "inside").mkdir()
    assert provenance.commit(tmp_path / "inside") == provenance.ABSENT, "a copy inside another checkout"
