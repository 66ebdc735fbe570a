"""Image and class tasks: what is asked when, what is tried again, and what ends in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reason.asking.aligner import ExactAligner
from reason.asking.conversation import GenericTask, ImageTask, generic_reasons
from reason.asking.messages import Answer, EncodedImage, Request, TaskOptions
from reason.asking.prompts import load_prompts
from reason.errors import EngineGone, ReasonError, run_command
from reason.triplets import TripletError, dump_generic, dump_image, load_generic, load_image
from reason.vocabulary import Vocabulary, VocabularyError, parse_vocabulary

PROMPTS = load_prompts()
IMAGE = EncodedImage(b"\xff\xd8", "image/jpeg", 112, 84, "c0ffee", 12)
ANIMALS = parse_vocabulary("cat, kitten; dog, puppy; sofa, couch; floor; wall", name="home")
ATTRIBUTES = ["four legs", "pointed ears", "long whiskers", "striped fur", "thin tail"]
REASON = {"general_category": "living thing", "sub_category": "mammal", "attributes": ATTRIBUTES}


def image_task(vocabulary: Vocabulary = ANIMALS, **options: Any) -> ImageTask:
    return ImageTask("a.jpg", IMAGE, vocabulary, PROMPTS, ExactAligner(vocabulary), TaskOptions(**options))


def answer(request: Request, text: str, **changes: Any) -> Answer:
    values: dict[str, Any] = {
        "finish_reason": "stop",
        "prompt_tokens": 100,
        "cached_tokens": 64,
        "completion_tokens": 9,
    }
    return Answer(request.key, text, **{**values, **changes})


def tell(task: ImageTask | GenericTask, *texts: str) -> list[Request]:
    """Give the texts as the answers to the next requests."""
    requests = []
    for text in texts:
        request = task.next_request()
        assert request is not None
        task.receive(answer(request, text))
        requests.append(request)
    return requests


def described(text: str = "A cat lies on a couch.") -> str:
    return json.dumps({"description": text})


def named(*names: str) -> str:
    return json.dumps({"classes": names})


def reasoned(*names: str) -> str:
    return json.dumps(dict.fromkeys(names, REASON))


def text_reasons(names: Sequence[str]) -> str:
    return "\n\n".join(
        "A1: This object belongs to [living thing].\nA2: This 'living thing' is [mammal].\n"
        f"A3: This 'mammal' 'living thing' can be recognized as {name} "
        f"because it contains visual attributes: [{', '.join(ATTRIBUTES)}]."
        for name in names
    )


def test_three_steps_are_one_conversation() -> None:
    task = image_task()
    first, second, third = tell(task, described(), named("couch", "Cats", "hat"), reasoned("sofa", "cat"))
    assert task.outcome == "done"
    assert task.next_request() is None
    assert [turn.role for turn in third.turns] == ["system", "user", "assistant", "user", "assistant", "user"]
    # Each step continues the one before it, the image stands once, after all that is constant.
    assert second.turns[: len(first.turns)] == first.turns
    assert third.turns[: len(second.turns)] == second.turns
    assert [turn.image for turn in third.turns] == [None, IMAGE, None, None, None, None]
    assert [turn.text for turn in third.turns if turn.role == "assistant"] == [
        described(),
        named("couch", "Cats", "hat"),
    ]
    assert first.turns[0] == image_task().next_request().turns[0]  # type: ignore[union-attr]
    # The aligned classes are asked about by their labels, and nothing else can be answered.
    assert third.turns[-1].text.endswith("sofa, cat")
    assert third.schema is not None
    assert third.schema["required"] == ["sofa", "cat"]
    assert third.sampling.max_tokens == 2 * TaskOptions().reason_tokens


@pytest.mark.parametrize("form", ["json", "text"])
def test_triplet_is_read_back_equal(tmp_path: Path, form: str) -> None:
    task = image_task(answer_form=form)
    if form == "json":
        tell(task, described(), named("couch", "Cats", "hat", "sofa"), reasoned("sofa", "cat"))
    else:
        requests = tell(
            task, "A cat lies on a couch.", "Classes: [couch, Cats, hat, sofa]", text_reasons(["cat", "sofa"])
        )
        assert [request.schema for request in requests] == [None, None, None]
    triplet = task.triplet()
    dump_image(triplet, tmp_path / "a.json")
    assert load_image(tmp_path / "a.json") == triplet
    assert list(triplet.reasons) == ["cat", "sofa"]
    assert triplet.reasons["cat"].attributes == tuple(ATTRIBUTES)
    document = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert document["reasoning"]["map_class_reason"]["sofa"] == {
        "reason1": "living thing",
        "reason2": "mammal",
        "reason3": ATTRIBUTES,
    }
    assert document["description"] == "A cat lies on a couch."
    assert document["candidates"] == ["couch", "Cats", "hat", "sofa"]
    assert [(row["written"], row["class"], row["how"]) for row in document["alignment"]] == [
        ("couch", "sofa", "synonym"),
        ("Cats", "cat", "case"),
        ("hat", None, "none"),
        ("sofa", "sofa", "exact"),
    ]
    assert document["image"] == {"name": "a.jpg", "width": 112, "height": 84, "tokens": 12}
    assert document["tokens"] == {"prompt": 300, "cached": 192, "completion": 27}
    assert [row["step"] for row in document["attempts"]] == ["description", "candidates", "reasons"]


def test_only_the_failed_step_is_asked_again_and_warmer() -> None:
    task = image_task(attempts=3, temperatures=(0.0, 0.4), seed=7)
    tell(task, described())
    requests = tell(task, "no idea", named("cat") + "}", named("cat"))
    assert [request.sampling.temperature for request in requests] == [0.0, 0.4, 0.4]
    assert [request.sampling.seed for request in requests] == [7, 8, 9]
    assert len({request.key for request in requests}) == 3
    assert all(request.turns == requests[0].turns for request in requests)
    # The next step begins cold again.
    last = tell(task, reasoned("cat"))[0]
    assert last.sampling.temperature == 0.0
    assert [(failure.step, failure.attempt, failure.answer_text) for failure in task.failures] == [
        ("candidates", 1, "no idea"),
        ("candidates", 2, named("cat") + "}"),
    ]
    attempts = task.triplet().extra["attempts"]
    assert [row["problem"] is None for row in attempts] == [True, False, False, True, True]
    assert attempts[1]["answer"] == "no idea"


def test_out_of_attempts_is_failed_and_has_no_triplet() -> None:
    task = image_task(attempts=2)
    tell(task, described(), named("cat"), reasoned("dog"), reasoned("cat", "dog"))
    assert task.outcome == "failed"
    assert task.next_request() is None
    assert [failure.step for failure in task.failures] == ["reasons", "reasons"]
    assert "'dog', which was not asked about" in task.failures[0].problem
    with pytest.raises(RuntimeError, match="not done"):
        task.triplet()


def test_cut_off_answer_is_not_used_though_it_could_be_read() -> None:
    task = image_task()
    request = task.next_request()
    assert request is not None
    task.receive(answer(request, described(), finish_reason="length"))
    assert task.outcome == "running"
    assert "finish reason 'length'" in task.failures[0].problem
    again = task.next_request()
    assert again is not None
    assert again.turns == request.turns


def test_refused_request_fails_at_once() -> None:
    task = image_task()
    request = task.next_request()
    assert request is not None
    task.receive(answer(request, "", finish_reason="", error="prompt of 9000 tokens, limit 4096"))
    assert task.outcome == "failed"
    assert task.failures[0].problem == "the engine refused the request: prompt of 9000 tokens, limit 4096"


@pytest.mark.parametrize("names", [(), ("hat", "shoe")])
def test_no_class_in_the_image_is_a_result(tmp_path: Path, names: tuple[str, ...]) -> None:
    task = image_task()
    tell(task, described("A hat and a shoe."), named(*names))
    assert task.outcome == "done"
    triplet = task.triplet()
    dump_image(triplet, tmp_path / "a.json")
    assert load_image(tmp_path / "a.json") == triplet
    assert triplet.reasons == {}
    assert triplet.extra["candidates"] == list(names)


def test_closed_candidates() -> None:
    task = ImageTask("a.jpg", IMAGE, ANIMALS, PROMPTS, None, TaskOptions(candidates="closed"))
    _, second = tell(task, described(), named("cat", "unicorn"))
    assert second.schema is not None
    assert second.schema["properties"]["classes"]["items"]["enum"] == ["cat", "dog", "sofa", "floor", "wall"]
    # An engine that does not keep to the schema is found out.
    assert task.failures[0].problem == "'unicorn' is no class of the vocabulary"
    tell(task, named("cat"), reasoned("cat"))
    assert task.outcome == "done"
    with pytest.raises(ReasonError, match="class aligner"):
        ImageTask("a.jpg", IMAGE, ANIMALS, PROMPTS, None, TaskOptions())


def test_many_candidates_are_asked_in_parts_that_share_the_conversation() -> None:
    names = [f"thing {letter}" for letter in "abcdefghijk"]
    task = image_task(parse_vocabulary(", ".join(names)), classes_per_answer=5)
    tell(task, described(), named(*names))
    parts = []
    while task.outcome == "running":
        request = task.next_request()
        assert request is not None
        assert request.schema is not None
        parts.append((request, list(request.schema["required"])))
        task.receive(answer(request, reasoned(*parts[-1][1])))
    assert [len(labels) for _, labels in parts] == [3, 4, 4]
    assert [label for _, labels in parts for label in labels] == names
    assert len({request.turns[:-1] for request, _ in parts}) == 1
    assert len({request.key for request, _ in parts}) == 3
    assert list(task.triplet().reasons) == names


def test_one_request_at_a_time() -> None:
    task = image_task()
    request = task.next_request()
    assert request is not None
    with pytest.raises(RuntimeError, match="no answer yet"):
        task.next_request()
    with pytest.raises(ValueError, match="not asked"):
        task.receive(Answer("other", "", "stop", 0, None, 0))
    task.receive(answer(request, described()))
    with pytest.raises(ValueError, match="not asked"):
        task.receive(answer(request, described()))


def test_cached_tokens_are_unknown_where_one_answer_does_not_tell() -> None:
    task = image_task()
    request = task.next_request()
    assert request is not None
    task.receive(answer(request, described(), cached_tokens=None))
    tell(task, named("cat"))
    assert task.tokens == {"prompt": 200, "cached": None, "completion": 18}


def test_half_a_surrogate_pair_in_an_answer_does_not_reach_a_file(tmp_path: Path) -> None:
    task = image_task()
    tell(task, 'oh \ud800 {"description"', described(), named("cat"), reasoned("cat"))
    dump_image(task.triplet(), tmp_path / "a.json")
    assert load_image(tmp_path / "a.json").extra["attempts"][0]["answer"].startswith("oh \\ud800")
    task.failures[0].answer_text.encode()


def test_generic_file(tmp_path: Path) -> None:
    found = {}
    system = set()
    for index in reversed(range(len(ANIMALS))):
        task = GenericTask(index, ANIMALS, PROMPTS, TaskOptions(answer_form="text"))
        text = text_reasons([ANIMALS.classes[index].synonyms[-1]])
        unusable, good = tell(task, text_reasons(["unicorn"]), text)
        assert good.sampling.temperature > unusable.sampling.temperature
        assert task.outcome == "done"
        system.add(good.turns[0].text)
        found[index] = task.reason()
        assert found[index].raw_response == text
    assert len(system) == 1
    reasons = generic_reasons(found, ANIMALS)
    dump_generic(reasons, tmp_path / "home.json")
    assert load_generic(tmp_path / "home.json") == reasons
    assert list(reasons) == list(ANIMALS.class_names)
    document = json.loads((tmp_path / "home.json").read_text(encoding="utf-8"))
    assert list(document["cat"]) == ["raw_response", "general_category", "sub_category", "class_des"]


def test_generic_json_and_failure() -> None:
    task = GenericTask(1, ANIMALS, PROMPTS, TaskOptions(attempts=2))
    assert "dog (puppy)" in tell(task, json.dumps(REASON))[0].turns[-1].text
    assert task.reason().raw_response == json.dumps(REASON)
    failing = GenericTask(1, ANIMALS, PROMPTS, TaskOptions(attempts=2))
    tell(failing, "{}", "{}")
    assert failing.outcome == "failed"
    with pytest.raises(RuntimeError, match="not done"):
        failing.reason()


def test_file_order_lets_every_class_have_its_own_reason() -> None:
    # "paper" names both classes, so the entry that serves both must not stand first.
    vocabulary = parse_vocabulary("paper\nnewspaper, paper")
    reasons = {}
    for index in range(2):
        task = GenericTask(index, vocabulary, PROMPTS, TaskOptions())
        tell(task, json.dumps(REASON))
        reasons[index] = task.reason()
    assert list(generic_reasons(reasons, vocabulary)) == ["newspaper", "paper"]


@pytest.mark.parametrize(
    "changes",
    [
        {"attempts": 0},
        {"temperatures": ()},
        {"temperatures": (-0.1,)},
        {"top_p": 0.0},
        {"seed": -1},
        {"reason_tokens": 1},
        {"classes_per_answer": 0},
        {"attributes": (6, 5)},
        {"candidates": "open"},
        {"answer_form": "yaml"},
    ],
)
def test_options_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(ReasonError):
        TaskOptions(**changes)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ReasonError("x.jpg: broken\nin two"), 2),
        (VocabularyError("x.json: no class"), 2),
        (TripletError("x.json: no class"), 2),
        (EngineGone("server is gone"), 3),
    ],
)
def test_errors_are_one_line(error: Exception, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise error

    assert run_command(main, debug=False) == status
    assert capsys.readouterr().err == f"error: {' '.join(str(error).split())}\n"
    with pytest.raises(type(error)):
        run_command(main, debug=True)


def test_exit_status_without_error() -> None:
    assert run_command(lambda: None, debug=False) == 0
    assert run_command(lambda: 1, debug=False) == 1
