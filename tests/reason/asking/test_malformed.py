"""5,000 malformed answers: no exception escapes, and nothing ends in a triplet that the model did not write."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reason.asking.aligner import ExactAligner
from reason.asking.conversation import GenericTask, ImageTask
from reason.asking.messages import Answer, EncodedImage, TaskOptions
from reason.asking.parsing import AnswerError, parse_candidates, parse_description, parse_generic, parse_reasons
from reason.asking.prompts import load_prompts
from reason.asking.schemas import candidates_schema, generic_schema
from reason.triplets import image_document, parse_image
from reason.triplets import parse_generic as read_generic
from reason.vocabulary import parse_vocabulary

PROMPTS = load_prompts()
IMAGE = EncodedImage(b"", "image/jpeg", 28, 28, "0", 1)
VOCABULARY = parse_vocabulary("cat, kitten; dog; sofa, couch; light; traffic light", name="few")
ALIGNER = ExactAligner(VOCABULARY)
LABELS = [entry.synonyms[0] for entry in VOCABULARY.classes]
STRANGERS = ["unicorn", "cat dog", "Sofas", "catt", "", "traffic", "the light", "\u732b", "cat (pet)"]
SIGNS = ['"', "\\", "[", "]", "{", "}", ",", "\ud800", "\x00", "\ufffd", "\\u0000", "\\ud83d", "A1:"]
ATTRIBUTES = ["soft fur", "long tail", "pointed ears", "round eyes", "bright glow", "wooden legs", "thick cushions"]
FIELDS = ["general_category", "sub_category", "attributes", "classes", "description"]
STEPS = ["description", "candidates", "reasons", "generic"]
FORMS = ("json", "text")
MALFORMED = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

junk = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=st.characters(categories=["Cs", "Cc", "Zs", "Mn"]), max_size=12),
    st.text(alphabet='{}[]":,\\u0d8An123 .\n', max_size=80),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | junk | st.sampled_from(LABELS + STRANGERS + ATTRIBUTES),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from(LABELS + STRANGERS + FIELDS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=6,
)


def texts_in(value: Any) -> Iterator[str]:
    """Every text of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)


def written(answer: str) -> str:
    """All that an answer says, on one line: as it is, and with JSON's escapes undone."""
    body = answer.strip().removeprefix("```json").removesuffix("```")
    try:
        decoded = " ".join(texts_in(json.loads(body)))
    except (ValueError, RecursionError):
        decoded = ""
    return " ".join(f"{answer} {decoded}".split())


def check_parsers(text: str) -> None:
    """Every reader, in both forms, gives what is written or raises AnswerError."""
    said = written(text)
    for form in FORMS:
        for read in (parse_description, parse_candidates):
            try:
                found = read(text, form)  # type: ignore[operator]
            except AnswerError:
                continue
            for piece in [found] if isinstance(found, str) else found:
                assert piece in said
                assert piece.encode()
        for asked in (["cat"], ["dog", "traffic light"]):
            try:
                reasons = parse_reasons(text, asked, form)
            except AnswerError:
                reasons = {}
            assert list(reasons) == (asked if reasons else [])
            for reason in reasons.values():
                pieces = [reason.general_category, reason.sub_category, *reason.attributes]
                assert len(reason.attributes) >= 5
                assert all(piece in said and piece.encode() for piece in pieces)
        try:
            parse_generic(text, ["cat", "kitten"], form)
        except AnswerError:
            continue


def valid_answer(step: str, form: str, classes: list[str], dice: random.Random) -> str:
    """An answer as it should be."""
    if step == "description":
        return json.dumps({"description": "A cat on a couch."}) if form == "json" else "A cat on a couch."
    if step == "candidates":
        names = dice.sample(LABELS + STRANGERS, dice.randrange(5))
        return json.dumps({"classes": names}) if form == "json" else f"Classes: [{', '.join(names)}]"
    attributes = dice.sample(ATTRIBUTES, dice.choice([3, 5, 6]))
    if form == "json":
        entry = {"general_category": "thing", "sub_category": "small thing", "attributes": attributes}
        return json.dumps(entry if step == "generic" else dict.fromkeys(classes, entry))
    return "\n".join(
        f"A1: This object belongs to [thing].\nA2: This 'thing' is [small thing].\nA3: This 'small thing' 'thing' "
        f"can be recognized as {name} because it contains visual attributes: [{', '.join(attributes)}]."
        for name in classes
    )


def spoil(text: str, dice: random.Random) -> str:
    """`text` with up to four accidents: cut, doubled, swapped or strange pieces, renamed classes, fences."""
    for _ in range(dice.randrange(5)):
        start = dice.randrange(len(text) + 1)
        end = min(len(text), start + dice.randrange(12))
        accident = dice.randrange(9)
        if accident == 0:
            text = text[:start]
        elif accident == 1:
            text = text[:start] + text[end:]
        elif accident == 2:
            text = text[:end] + text[start:]
        elif accident == 3:
            text = text[:start] + dice.choice(SIGNS) + text[start:]
        elif accident == 4:
            text = text.replace(dice.choice(LABELS), dice.choice(LABELS + STRANGERS))
        elif accident == 5:
            text = f"```json\n{text}\n```"
        elif accident == 6:
            text = text.replace(dice.choice(ATTRIBUTES), dice.choice(["", "cat", "12", "null", "x" * 300, "soft fur"]))
        elif accident == 7:
            text = text.replace('"', dice.choice(["'", "“", ""]), dice.randrange(1, 9))
        else:
            text = text[start:] + " " * dice.randrange(50)
    return text


@settings(MALFORMED, max_examples=700)
@given(st.one_of(junk, values.map(json.dumps), values.map(str)))
def test_anything_at_all(text: str) -> None:
    check_parsers(text)


@settings(MALFORMED, max_examples=2500)
@given(st.integers(0, 2**32), st.sampled_from(STEPS), st.sampled_from(FORMS))
def test_good_answers_gone_wrong(seed: int, step: str, form: str) -> None:
    dice = random.Random(seed)
    check_parsers(spoil(valid_answer(step, form, dice.choice([["cat"], ["dog", "traffic light"]]), dice), dice))


@settings(MALFORMED, max_examples=1400)
@given(st.integers(0, 2**32), st.sampled_from(FORMS), st.sampled_from(["free", "closed"]))
def test_image_tasks_invent_nothing(seed: int, form: Any, candidates: Any) -> None:
    dice = random.Random(seed)
    options = TaskOptions(candidates=candidates, answer_form=form, attempts=6, classes_per_answer=2)
    task = ImageTask("a.jpg", IMAGE, VOCABULARY, PROMPTS, ALIGNER, options)
    count = 0
    while (request := task.next_request()) is not None:
        count += 1
        step = request.key.split("/")[1].rstrip("123")
        asked = request.turns[-1].text.rpartition("? ")[2].split(", ")
        text = valid_answer(step, form, asked, dice)
        if dice.random() < 0.7:
            text = spoil(text, dice)
        finish = dice.choice(["stop"] * 19 + ["length"])
        error = "too long" if dice.random() < 0.01 else None
        task.receive(Answer(request.key, text, finish, 5, None, 5, error))
    assert count <= 6 * 5
    assert len(task.attempts) == count
    assert len(task.failures) == sum(attempt["problem"] is not None for attempt in task.attempts)
    if task.outcome == "failed":
        return
    triplet = task.triplet()
    document = json.loads(json.dumps(image_document(triplet)))
    assert parse_image(document, where="a.json") == triplet
    used = dict.fromkeys(("description", "candidates", "reasons"), "")
    for attempt in task.attempts:
        if attempt["problem"] is None:
            used[attempt["step"]] += " " + written(attempt["answer"])
    aligned = {row["class"] for row in triplet.extra["alignment"]} - {None}
    assert set(triplet.reasons) == aligned
    assert all(name in used["candidates"] for name in triplet.extra["candidates"])
    for name, reason in triplet.reasons.items():
        assert name in VOCABULARY.class_names
        pieces = [reason.general_category, reason.sub_category, *reason.attributes]
        assert all(piece in used["reasons"] for piece in pieces)


@settings(MALFORMED, max_examples=400)
@given(st.integers(0, 2**32), st.sampled_from(FORMS))
def test_generic_tasks_invent_nothing(seed: int, form: Any) -> None:
    dice = random.Random(seed)
    task = GenericTask(2, VOCABULARY, PROMPTS, TaskOptions(answer_form=form))
    while (request := task.next_request()) is not None:
        names = [dice.choice(["sofa", "couch", "dog"])]
        task.receive(Answer(request.key, spoil(valid_answer("generic", form, names, dice), dice), "stop", 5, 5, 5))
    if task.outcome == "done":
        reason = task.reason()
        assert reason.name == "sofa"
        raw = written(reason.raw_response or "")
        assert all(piece in raw for piece in (reason.general_category, reason.sub_category, *reason.attributes))
        read_generic({"sofa": {"class_des": list(reason.attributes)}}, where="few.json")


@settings(MALFORMED, max_examples=60)
@given(st.data())
def test_what_the_schemas_admit_is_read(data: st.DataObject) -> None:
    fields = generic_schema()["properties"]
    item = candidates_schema(None)["properties"]["classes"]["items"]

    def of(schema: dict[str, str]) -> st.SearchStrategy[str]:
        return st.from_regex(schema["pattern"].replace("$", r"\Z"))

    entry: dict[str, Any] = {name: data.draw(of(fields[name])) for name in ("general_category", "sub_category")}
    entry["attributes"] = data.draw(st.lists(of(fields["attributes"]["items"]), min_size=1, max_size=3))
    name = data.draw(of(item))
    found = parse_generic(json.dumps(entry), ["no attribute is like this"], attributes=(1, 8))
    assert found.attributes
    assert len(parse_candidates(json.dumps({"classes": [name]}))) == 1


@pytest.mark.parametrize("depth", [50, 5_000, 49_000])
def test_nested_without_end(depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"classes":' * (depth // 6), "(" * depth, "A1: [" * (depth // 3)):
        check_parsers(text)
