"""The bank with a real, small CLIP, real files, real kills and a real file-size limit."""

from __future__ import annotations

import logging
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from maft.errors import UserError
from maft.text.bank import FeatureBank
from maft.text.shards import COMPACT_SHARDS, sentence_keys
from maft.text.templates import TemplateSet

WRITER = """
import sys
from tiny_tower import tiny_encoder
from maft.text.bank import FeatureBank
folder, start, stop, flush_rows = sys.argv[1], *map(int, sys.argv[2:])
bank = FeatureBank(tiny_encoder(), "vild", folder, flush_rows=flush_rows)
for number in range(start, stop):
    bank.get([f"sentence {number}"])
    if number == start:
        print("started", flush=True)
bank.close()
print(bank.stats()["encoded"])
"""


def sentences(start: int, stop: int) -> list[str]:
    return [f"sentence {number}" for number in range(start, stop)]


def files(folder: Path, pattern: str = "*.safetensors") -> list[Path]:
    return sorted(folder.rglob(pattern))


def close_to(values: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool(((values - expected).norm(dim=1) <= tolerance * expected.norm(dim=1)).all())


def test_each_distinct_sentence_is_encoded_once_ever(counting, direct, tmp_path: Path) -> None:
    wanted = [*sentences(0, 20), *sentences(5, 10), "sentence 3"]
    with FeatureBank(counting, "vild", tmp_path, flush_rows=8) as bank:
        assert close_to(bank.get(wanted), direct.encode(wanted))
        bank.get(sentences(10, 25))
        bank.prefetch(sentences(0, 30))
    with FeatureBank(counting, "vild", tmp_path) as again:
        assert close_to(again.get(sentences(0, 30)), direct.encode(sentences(0, 30)))
        assert again.prefetch(wanted) == 0
        assert again.stats() == {
            "encoded": 0,
            "read": 30,
            "remembered": 0,
            "forgotten": 0,
            "damaged_shards": 0,
            "damaged_rows": 0,
        }
    assert sorted(counting.asked) == sorted(set(counting.asked)) and len(counting.asked) == 30


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(st.lists(st.integers(0, 15), max_size=12), max_size=6),
    flush_rows=st.integers(1, 9),
    on_disk=st.booleans(),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_any_requests_in_any_order(tiny, direct, tmp_path_factory, requests, flush_rows, on_disk, dtype) -> None:
    encoder = tiny.CountingEncoder(direct)
    folder = tmp_path_factory.mktemp("bank") if on_disk else None
    with FeatureBank(encoder, "vild", folder, flush_rows=flush_rows, storage_dtype=dtype) as bank:
        for request in requests:
            wanted = [f"sentence {number}" for number in request]
            expected = direct.encode(wanted)
            values = bank.get(wanted)
            assert values.dtype == torch.float32 and values.shape == expected.shape
            assert close_to(values, expected, 1e-5 if dtype == "float32" else 2e-3)
    assert len(encoder.asked) == len(set(encoder.asked)) == len({number for request in requests for number in request})


def test_float16_gives_the_same_before_and_after_the_disk(counting, direct, tmp_path: Path) -> None:
    with FeatureBank(counting, "vild", tmp_path, storage_dtype="float16") as bank:
        fresh = bank.get(sentences(0, 9))
    stored = FeatureBank(counting, "vild", tmp_path, storage_dtype="float16").get(sentences(0, 9))
    assert torch.equal(fresh, stored)
    assert not torch.equal(fresh, direct.encode(sentences(0, 9)))
    assert safetensors.torch.load_file(files(tmp_path)[0])["features"].dtype == torch.float16


def test_weights_templates_and_storage_types_do_not_mix(tiny, tmp_path: Path) -> None:
    made = []
    for encoder in (tiny.tiny_encoder(0), tiny.tiny_encoder(1)):
        for templates in (TemplateSet("a", ("a {}",)), TemplateSet("a", ("the {}",))):
            for dtype in ("float32", "float16"):
                counting = tiny.CountingEncoder(encoder)
                with FeatureBank(counting, templates, tmp_path, storage_dtype=dtype) as bank:
                    made.append(bank.get(["cat"]))
                assert counting.asked == ["cat"]
    assert len(files(tmp_path)) == 8
    assert not torch.allclose(made[0], made[4])


def test_weights_loaded_after_the_bank_was_made(tiny, tmp_path: Path) -> None:
    clip = tiny.tiny_clip(0)
    encoder = tiny.CLIPTextEncoder(clip, tiny.open_clip.get_tokenizer("convnext_base_w_320"))
    bank = FeatureBank(encoder, "vild", tmp_path)
    before = bank.get(["cat"])
    clip.load_state_dict(tiny.tiny_clip(1).state_dict())
    after = bank.get(["cat"])
    bank.close()
    assert close_to(after, tiny.tiny_encoder(1).encode(["cat"])) and not torch.allclose(before, after)
    assert len(files(tmp_path)) == 2


def test_few_files_however_small_the_requests(counting, tmp_path: Path) -> None:
    with FeatureBank(counting, "vild", tmp_path, flush_rows=1000) as bank:
        for number in range(40):
            bank.get([f"sentence {number}"])
        assert not files(tmp_path)
    assert len(files(tmp_path)) == 1


def test_new_rows_are_written_when_time_has_passed(counting, tmp_path: Path) -> None:
    bank = FeatureBank(counting, "vild", tmp_path, flush_seconds=0.0)
    bank.get(["cat"])
    assert len(files(tmp_path)) == 1


def test_small_shards_are_merged_while_another_bank_reads(tiny, counting, direct, tmp_path: Path) -> None:
    other = None
    with FeatureBank(counting, "vild", tmp_path, flush_rows=1) as bank:
        for number in range(5 * COMPACT_SHARDS):
            bank.get([f"sentence {number}"])
            if number == COMPACT_SHARDS - 3:
                other = FeatureBank(tiny.CountingEncoder(direct), "vild", tmp_path)
                other.get(["sentence 0"])
            assert len(files(tmp_path)) <= COMPACT_SHARDS
    everything = sentences(0, 5 * COMPACT_SHARDS)
    assert other is not None
    assert close_to(other.get(everything), direct.encode(everything))
    reopened = FeatureBank(counting, "vild", tmp_path)
    assert close_to(reopened.get(everything), direct.encode(everything))
    assert len(counting.asked) == len(everything) and other.encoder.asked == []
    assert reopened.stats()["read"] == len(everything)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "no header"])
def test_damaged_shard_is_announced_set_aside_and_made_up_for(
    counting, direct, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FeatureBank(counting, "vild", tmp_path) as bank:
        bank.get(sentences(0, 4))
        bank.flush()
        bank.get(sentences(4, 8))
    path = files(tmp_path)[0]
    content = path.read_bytes()
    changed = {"cut": content[:-10], "garbage": b"\xff" * 300, "empty": b"", "no header": b"\0" * 8}
    path.write_bytes(changed[damage])
    counting.asked.clear()
    with caplog.at_level(logging.WARNING), FeatureBank(counting, "vild", tmp_path) as again:
        assert close_to(again.get(sentences(0, 8)), direct.encode(sentences(0, 8)))
    assert sorted(counting.asked) == sentences(0, 4)
    assert again.stats()["damaged_shards"] == 1
    assert path.name in caplog.text and not path.exists()
    assert path.with_name(path.name + ".damaged").exists()
    counting.asked.clear()
    FeatureBank(counting, "vild", tmp_path).get(sentences(0, 8))
    assert counting.asked == []


def test_a_flipped_bit_in_a_row_is_noticed(counting, direct, tmp_path: Path) -> None:
    with FeatureBank(counting, "vild", tmp_path) as bank:
        bank.get(sentences(0, 6))
    path = files(tmp_path)[0]
    tensors = safetensors.torch.load_file(path)
    row = tensors["features"][2].clone()
    content = bytearray(path.read_bytes())
    place = content.index(row.numpy().tobytes())
    content[place + 5] ^= 0x40
    path.write_bytes(content)
    counting.asked.clear()
    again = FeatureBank(counting, "vild", tmp_path)
    assert close_to(again.get(sentences(0, 6)), direct.encode(sentences(0, 6)))
    assert len(counting.asked) == 1 and again.stats()["damaged_rows"] == 1


def test_shard_of_another_encoder_is_not_read(tiny, counting, direct, tmp_path: Path) -> None:
    with FeatureBank(tiny.tiny_encoder(1), "vild", tmp_path / "foreign") as bank:
        bank.get(["cat"])
    own = FeatureBank(counting, "vild", tmp_path / "own")
    assert own.folder is not None
    own.folder.mkdir(parents=True)
    files(tmp_path / "foreign")[0].rename(own.folder / "copied.safetensors")
    assert close_to(own.get(["cat"]), direct.encode(["cat"]))
    assert own.stats()["damaged_shards"] == 1


def test_full_disk_is_a_user_error_that_loses_nothing(
    counting, direct, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on file sizes stands for a full disk: the write really fails half-way."""
    bank = FeatureBank(counting, "vild", tmp_path, flush_rows=50)
    bank.get(sentences(0, 10))
    bank.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot store text features.*MODEL\.REASON\.BANK_DIR"):
            bank.get(sentences(0, 100))
        assert len(files(tmp_path)) == 1 and not files(tmp_path, ".*.aside")
        with pytest.raises(ValueError, match="the first error"), bank:
            raise ValueError("the first error")
        with pytest.raises(UserError):
            bank.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    counting.asked.clear()
    assert close_to(bank.get(sentences(0, 100)), direct.encode(sentences(0, 100)))
    assert counting.asked == []
    bank.close()
    FeatureBank(counting, "vild", tmp_path).get(sentences(0, 100))
    assert counting.asked == []


def test_folder_that_is_a_file(counting, tmp_path: Path) -> None:
    (tmp_path / "bank").write_text("")
    with pytest.raises(UserError, match=r"MODEL\.REASON\.BANK_DIR"):
        FeatureBank(counting, "vild", tmp_path / "bank").get(["cat"])


def test_memory_only_forgets_the_oldest(counting, direct, caplog: pytest.LogCaptureFixture) -> None:
    bank = FeatureBank(counting, "vild", memory_rows=10)
    with caplog.at_level(logging.WARNING):
        assert close_to(bank.get(sentences(0, 25)), direct.encode(sentences(0, 25)))
        assert close_to(bank.get(sentences(15, 25)), direct.encode(sentences(15, 25)))
        assert len(counting.asked) == 25
        bank.get(["sentence 0"])
        bank.get(["sentence 1"])
    assert len(counting.asked) == 27 and bank.stats()["forgotten"] == 17
    assert len([record for record in caplog.records if "oldest" in record.message]) == 1
    assert bank.folder is None


class _Broken:
    """An encoder whose weights are damaged, or whose features are large."""

    dim = 2
    fingerprint = "broken"

    def __init__(self, value: float) -> None:
        self.value = value

    def encode(self, sentences: Sequence[str]) -> Tensor:
        return torch.full((len(sentences), 2), self.value)


def test_features_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'cat' is not finite"):
        FeatureBank(_Broken(float("nan")), "vild", tmp_path).get(["cat"])
    with pytest.raises(UserError, match="float16 cannot hold the feature of 'cat'"):
        FeatureBank(_Broken(1e6), "vild", tmp_path, storage_dtype="float16").get(["cat"])
    with pytest.raises(UserError, match="'int8' is no storage type"):
        FeatureBank(_Broken(1.0), "vild", tmp_path, storage_dtype="int8")  # type: ignore[arg-type]
    assert not files(tmp_path)


def test_keys_are_distinct_and_stable() -> None:
    keys = sentence_keys(["", "a", "b", "ab", "Café"])
    assert len({key.tobytes() for key in keys}) == 5
    assert keys[1].tobytes().hex() == "27c35e6e9373877f29e562464e46497e"


@pytest.mark.slow
def test_killed_while_writing(counting, direct, start_python, tmp_path: Path) -> None:
    """A real process, killed without warning: what stands on the disk is right, and the next one goes on."""
    for attempt in range(3):
        process = start_python(WRITER, str(tmp_path), str(attempt), "100000", "2")
        while not (said := process.said())[0]:
            assert process.poll() is None, said
            time.sleep(0.01)
        time.sleep(0.3 + 0.2 * attempt)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    bank = FeatureBank(counting, "vild", tmp_path)
    bank.get(["sentence 0"])
    stored = sum(len(safetensors.torch.load_file(path)["keys"]) for path in files(tmp_path))
    assert stored > 10 and not files(tmp_path, "*.damaged")
    wanted = sentences(0, 60)
    assert close_to(bank.get(wanted), direct.encode(wanted))
    assert bank.stats()["read"] >= min(stored, 60) - COMPACT_SHARDS
    bank.close()
    assert FeatureBank(counting, "vild", tmp_path).prefetch(wanted) == 0


@pytest.mark.slow
def test_two_processes_at_once(counting, direct, start_python, tmp_path: Path) -> None:
    processes = [start_python(WRITER, str(tmp_path), *span, "3") for span in (("0", "120"), ("60", "180"))]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all(int(out.split()[-1]) <= 120 for out, _ in outputs)
    bank = FeatureBank(counting, "vild", tmp_path)
    assert close_to(bank.get(sentences(0, 180)), direct.encode(sentences(0, 180)))
    assert counting.asked == [] and bank.stats()["damaged_shards"] == 0
