"""The loop over a data set: equal results however it is run, and nothing evaluated twice after kills."""

import contextlib
import json
import logging
import os
import random
import signal
import sys
import time
from collections import Counter

import evaluation_scene as scene
import forked
import numpy as np
import pytest
from PIL import Image

from maft.errors import UserError
from maft.evaluation.journal import read_journal
from maft.evaluation.loop import evaluate
from maft.evaluation.results import results_folder
from reason.triplets import TripletError

IMAGES = 24
VOLATILE = ("seconds", "images")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene") / "data"
    scene.build(folder, IMAGES)
    return folder


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    """The result of one uninterrupted evaluation in this process."""
    return comparable(scene.run(data, tmp_path_factory.mktemp("expected")))


def comparable(result):
    return {key: result[key] for key in result if key not in (*VOLATILE, "provenance", "dataset")}


def written(output):
    return json.loads((results_folder(output, scene.NAME) / "results.json").read_text())


def environment():
    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *paths]), "OMP_NUM_THREADS": "1"}


def start(data, output, *options, launcher=()):
    words = [*launcher, scene.__file__, data, output, *options]
    return forked.start(words, env=environment(), start_new_session=True)


def finish(process):
    errors = process.communicate(timeout=240)[1]
    return process.returncode, errors


def journal_lines(output):
    """Keys of all image lines on disk, whole or not."""
    keys = []
    for path in (results_folder(output, scene.NAME) / "journal").glob("rank-*.jsonl"):
        for line in path.read_text().split("\n")[:-1]:
            with contextlib.suppress(json.JSONDecodeError):
                keys += [json.loads(line)["image"]] if '"image":"' in line else []
    return keys


def kill_after(process, output, images, generator):
    """SIGKILL the whole process group at a random moment after `images` journal lines."""
    deadline = time.monotonic() + 120
    while len(journal_lines(output)) < images:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(generator.uniform(0, 0.15))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_the_metrics_are_those_of_the_maps_themselves(data, expected):
    """An independent count over the network's own output: a class's IoU from boolean masks."""
    scene.register(data)
    network = scene.Network().eval()
    inputs = [scene.InferenceMapper(short_edge=0)(record) for record in scene.records(data)]
    with scene.torch.inference_mode():
        predictions = [output["sem_seg"].argmax(0).numpy() for output in network(inputs)]
    labels = [np.asarray(Image.open(record["sem_seg_file_name"])) for record in scene.records(data)]
    for index, name in enumerate(scene.CLASSES):
        hit = sum(((p == index) & (t == index)).sum() for p, t in zip(predictions, labels, strict=True))
        either = sum(
            (((p == index) | (t == index)) & (t != scene.IGNORE)).sum()
            for p, t in zip(predictions, labels, strict=True)
        )
        assert expected["metrics"]["sem_seg"]["per_class"][name]["IoU"] == pytest.approx(100 * hit / either, abs=1e-6)
    assert 5 < expected["metrics"]["sem_seg"]["mIoU_present"] < 95
    assert 0 < expected["metrics"]["panoptic_seg"]["all"]["PQ"] < 95
    assert expected["usage"] == {"generic": IMAGES // 3, "image": IMAGES - IMAGES // 3}


@pytest.mark.parametrize(("batch", "workers"), [(5, 0), (3, 2)])
def test_batches_and_workers_change_nothing(data, expected, tmp_path, batch, workers):
    assert comparable(scene.run(data, tmp_path, batch=batch, workers=workers)) == expected


@pytest.mark.slow
def test_killed_again_and_again_it_evaluates_nothing_twice(data, expected, tmp_path):
    generator = random.Random(5)
    visits = tmp_path / "visits"
    batch, kills = 2, 3
    options = ("--batch", batch, "--workers", 1, "--delay", 0.1, "--visits", visits)
    done = 0
    for _ in range(kills):
        kill_after(start(data, tmp_path, *options), tmp_path, done + 2, generator)
        done = len(journal_lines(tmp_path))
        assert done < IMAGES
    status, errors = finish(start(data, tmp_path, *options))
    assert status == 0, errors
    assert f"{done} of {IMAGES} images were evaluated by an earlier run; delete" in errors
    assert comparable(written(tmp_path)) == expected
    assert written(tmp_path)["images"] == {"total": IMAGES, "earlier_run": done, "this_run": IMAGES - done}
    assert Counter(journal_lines(tmp_path)) == {record["file_name"]: 1 for record in scene.records(data)}
    seen = Counter(visits.read_text().split())
    assert len(seen) == IMAGES
    assert sum(seen.values()) <= IMAGES + kills * batch  # at most the batch under way when it was killed


@pytest.mark.slow
def test_several_ranks_killed_and_resumed_with_another_number(data, expected, tmp_path):
    process = start(data, tmp_path, "--ranks", 3, "--delay", 0.15)
    kill_after(process, tmp_path, 5, random.Random(1))
    first = len(journal_lines(tmp_path))
    assert first < IMAGES
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone")
    status, errors = finish(start(data, tmp_path, launcher=torchrun))
    assert status == 0, errors
    assert f"{first} of {IMAGES} images" in errors
    assert comparable(written(tmp_path)) == expected
    assert Counter(journal_lines(tmp_path)) == {record["file_name"]: 1 for record in scene.records(data)}


def test_two_ranks_give_what_one_gives(data, expected, tmp_path):
    status, errors = finish(start(data, tmp_path, "--ranks", 2, "--batch", 2))
    assert status == 0, errors
    assert comparable(written(tmp_path)) == expected
    folder = results_folder(tmp_path, scene.NAME) / "journal"
    assert sorted(path.name for path in folder.iterdir()) == ["finished", "rank-0.jsonl", "rank-1.jsonl"]


def test_a_full_disk_stops_with_one_line_and_goes_on_later(data, expected, tmp_path):
    """A limit on file size stands for the full disk: the write comes up short in the same way."""
    status, errors = finish(start(data, tmp_path, "--file-limit", 3000))
    assert status == 2
    assert errors.splitlines()[-1].startswith("error: ")
    assert "rank-0.jsonl: cannot be written" in errors
    assert "Traceback" not in errors
    done = len(journal_lines(tmp_path))
    assert 0 < done < IMAGES
    assert comparable(scene.run(data, tmp_path)) == expected
    assert Counter(journal_lines(tmp_path)) == {record["file_name"]: 1 for record in scene.records(data)}


def test_finished_starts_over_unless_resumed(data, expected, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    scene.run(data, tmp_path)
    assert read_journal(results_folder(tmp_path, scene.NAME)).finished
    resumed = scene.run(data, tmp_path, resume=True, visits=tmp_path / "visits")
    assert comparable(resumed) == expected
    assert resumed["images"] == {"total": IMAGES, "earlier_run": IMAGES, "this_run": 0}
    assert not (tmp_path / "visits").exists()
    again = scene.run(data, tmp_path)
    assert again["images"]["this_run"] == IMAGES
    assert "starting over (--resume reuses it)" in caplog.text


@pytest.mark.parametrize("change", ["weights", "data set"])
def test_a_changed_part_starts_over_and_is_named(tmp_path, caplog, change):
    data = tmp_path / "data"
    scene.build(data, 4)
    scene.run(data, tmp_path)
    parts = {"weights": "w1", "config": "c1"}
    if change == "weights":
        parts["weights"] = "w2"
    else:
        os.utime(data / "labels" / "001.png", ns=(1, 1))  # a label map that was written anew
    result = scene.run(data, tmp_path, fingerprint=parts, resume=True)
    assert result["images"] == {"total": 4, "earlier_run": 0, "this_run": 4}
    assert f"(changed: {change})" in caplog.text
    assert (results_folder(tmp_path, scene.NAME) / "earlier-1" / "results.json").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_the_same_user_error_from_a_worker(tmp_path, workers):
    data = tmp_path / "data"
    scene.build(data, 8)
    broken = data / "images" / "005.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError) as caught:
        scene.run(data, tmp_path, workers=workers)
    assert str(caught.value).startswith(str(broken))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert len(journal_lines(tmp_path)) == 5  # what came before it counts

    fresh = tmp_path / "fresh"
    scene.build(fresh, 8)
    broken.write_bytes((fresh / "images" / "005.png").read_bytes())
    assert scene.run(data, tmp_path)["images"]["total"] == 8


class TripletMapper:
    def __call__(self, record):
        raise TripletError("a.json: broken")


def test_other_user_errors_keep_their_type(data, tmp_path):
    scene.register(data)
    evaluator = scene.SemanticEvaluator(scene.NAME, tmp_path)
    with pytest.raises(TripletError, match=r"a\.json: broken"):
        scene.evaluate(
            *(scene.Network(), scene.NAME, scene.records(data), TripletMapper(), evaluator),
            output_dir=tmp_path,
            num_workers=1,
            fingerprint={},
        )


def test_the_training_mode_comes_back(data, tmp_path):
    scene.register(data)
    network = scene.Network().train()
    evaluator = scene.SemanticEvaluator(scene.NAME, tmp_path)
    scene.evaluate(
        *(network, scene.NAME, scene.records(data), scene.InferenceMapper(short_edge=0), evaluator),
        output_dir=tmp_path,
        fingerprint={},
    )
    assert network.training


def test_no_images_and_a_doubled_image_are_user_errors(data, tmp_path):
    scene.register(data)
    evaluator = scene.SemanticEvaluator(scene.NAME, tmp_path)
    for records, message in (([], "no image to evaluate"), (scene.records(data)[:1] * 2, "more than once")):
        with pytest.raises(UserError, match=message):
            scene.evaluate(
                *(scene.Network(), scene.NAME, records, scene.InferenceMapper(), evaluator),
                output_dir=tmp_path,
                fingerprint={},
            )


class Nothing:
    """An evaluator that looks at nothing."""

    what = "nothing"

    def process_one(self, inputs, outputs):
        return {}

    def summarise(self, records):
        return {"images": len(records)}


def test_images_of_one_size_share_a_batch(tmp_path):
    records = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (28, 20) if number % 2 else (20, 28)).save(path)
        records.append({"file_name": str(path)})
    batches = []

    class Network(scene.nn.Module):
        def forward(self, inputs):
            batches.append([tuple(one["image"].shape[-2:]) for one in inputs])
            return [{} for _ in inputs]

    def mapper(record):
        with Image.open(record["file_name"]) as image:
            return {**record, "image": scene.torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)}

    found = evaluate(
        Network(), "sizes", records, mapper, Nothing(), output_dir=tmp_path / "out", batch_size=3, fingerprint={}
    )
    assert found["metrics"] == {"images": 6}
    assert sorted(batches) == [[(20, 28)] * 3, [(28, 20)] * 3]
