"""Sentences and rows against a plain re-statement of docs/numerics.md, "Sentences" and "Rows"."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maft.errors import UserError
from maft.text.prompts import generic_prompts, image_prompts, match_reasons, plain_prompts
from maft.text.templates import TemplateSet, template_set
from reason.triplets import Reason

TEMPLATES = template_set("vild").templates
T = len(TEMPLATES)

# Few names with much overlap: exact comparison, case, blanks and double use all occur.
NAMES = st.sampled_from(["cat", "Cat", "cat ", "red cat", "dog", "sky", "a", ""])
SYNONYMS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map(tuple), min_size=1, max_size=5)
KEYS = st.lists(st.tuples(NAMES, st.sampled_from(["", " ", "  "])), min_size=1, max_size=3).map(
    lambda parts: ",".join(blank + name for name, blank in parts)
)
ATTRIBUTES = st.lists(st.sampled_from(["fur", "four legs", "{}", "blue"]), max_size=5)


def reasons_of(entries: dict[str, list[str]]) -> dict[str, Reason]:
    return {key: Reason(key, "", "", tuple(attributes)) for key, attributes in entries.items()}


REASONS = st.dictionaries(KEYS, ATTRIBUTES, max_size=6).map(reasons_of)


def entry_of(names, reasons):
    """The first key in the file with a stripped comma part equal to a name."""
    for key in reasons:
        for part in key.split(","):
            for name in names:
                if part.strip() == name:
                    return key
    return None


def attributes_of(given_attributes, num_des):
    repeated = list(given_attributes)
    while len(repeated) < num_des:
        repeated = repeated + list(given_attributes)
    return repeated[:num_des]


def expected_sentences(synonyms, reasons, num_des):
    """[(class index, attributes, sentences)] of the covered classes."""
    covered = []
    for index, names in enumerate(synonyms):
        key = entry_of(names, reasons)
        if key is None or not reasons[key].attributes:
            continue
        attributes = attributes_of(reasons[key].attributes, num_des)
        sentences = []
        for name in names:
            for template in TEMPLATES:
                for attribute in attributes:
                    before, after = template.split("{}")
                    sentences.append(before + name + " that has " + attribute + after)
        covered.append((index, attributes, sentences))
    return covered


@given(SYNONYMS, REASONS)
def test_every_class_takes_the_first_key_that_names_it(synonyms, reasons) -> None:
    assert match_reasons(synonyms, reasons) == [entry_of(names, reasons) for names in synonyms]


@given(SYNONYMS, REASONS, st.integers(1, 4), st.sampled_from(["reference", "aligned"]))
def test_sentences_and_classes_equal_the_restatement(synonyms, reasons, num_des, mode) -> None:
    prompts = image_prompts(synonyms, reasons, num_des, mode, "a.json")
    covered = expected_sentences(synonyms, reasons, num_des)
    if not covered:
        assert prompts is None
        return
    assert prompts is not None
    assert prompts.class_index == tuple(index for index, _, _ in covered)
    assert list(prompts.class_index) == sorted(set(prompts.class_index))
    assert prompts.sentences == tuple(sentence for _, _, sentences in covered for sentence in sentences)
    assert prompts.rows_per_class == tuple(len(synonyms[index]) * num_des for index, _, _ in covered)
    assert prompts.attributes == num_des
    short = [
        synonyms[index][0]
        for index, _, _ in covered
        if len(reasons[entry_of(synonyms[index], reasons)].attributes) < num_des
    ]
    assert list(prompts.padded) == short
    known = {name for names in synonyms for name in names}
    assert list(prompts.ignored) == [key for key in reasons if not known & {part.strip() for part in key.split(",")}]


@given(SYNONYMS, REASONS, st.integers(1, 4), st.sampled_from(["reference", "aligned"]))
def test_rows_partition_the_sentences(synonyms, reasons, num_des, mode) -> None:
    prompts = image_prompts(synonyms, reasons, num_des, mode, "a.json")
    if prompts is None:
        return
    members = prompts.row_members
    assert members.dtype == np.int64 and members.shape == (sum(prompts.rows_per_class), T)
    assert sorted(members.ravel().tolist()) == list(range(len(prompts.sentences)))


@given(SYNONYMS, REASONS, st.integers(1, 4))
def test_reference_rows_are_runs_of_T_sentences(synonyms, reasons, num_des) -> None:
    prompts = image_prompts(synonyms, reasons, num_des, "reference", "a.json")
    if prompts is None:
        return
    for group, members in enumerate(prompts.row_members.tolist()):
        assert members == list(range(group * T, group * T + T))


@given(SYNONYMS, REASONS, st.integers(1, 4))
def test_aligned_rows_hold_one_attribute_of_one_synonym_under_every_template(synonyms, reasons, num_des) -> None:
    prompts = image_prompts(synonyms, reasons, num_des, "aligned", "a.json")
    if prompts is None:
        return
    first_row = 0
    for index, attributes, _ in expected_sentences(synonyms, reasons, num_des):
        names = synonyms[index]
        # What the logits do: a class's rows as (K, S), the maximum over the last axis.
        table = prompts.row_members[first_row : first_row + num_des * len(names)].reshape(num_des, len(names), T)
        for k, attribute in enumerate(attributes):
            for s, name in enumerate(names):
                filled = [prompts.sentences[number] for number in table[k, s]]
                assert filled == [template.replace("{}", f"{name} that has {attribute}", 1) for template in TEMPLATES]
        first_row += num_des * len(names)


@given(SYNONYMS)
def test_plain_prompts_are_one_row_a_synonym(synonyms) -> None:
    prompts = plain_prompts(synonyms)
    names = [name for of_class in synonyms for name in of_class]
    assert prompts.sentences == tuple(template.replace("{}", name, 1) for name in names for template in TEMPLATES)
    assert prompts.row_members.tolist() == [list(range(r * T, r * T + T)) for r in range(len(names))]
    assert prompts.rows_per_class == tuple(len(of_class) for of_class in synonyms)
    assert prompts.class_index is None and prompts.attributes is None


@given(SYNONYMS, REASONS, st.integers(1, 3), st.sampled_from(["reference", "aligned"]))
def test_generic_covers_all_or_raises(synonyms, reasons, num_des, mode) -> None:
    entries = [entry_of(names, reasons) for names in synonyms]
    if None in entries or any(not reasons[key].attributes for key in entries):
        with pytest.raises(UserError, match="generic.json"):
            generic_prompts(synonyms, reasons, num_des, mode, "generic.json")
        return
    generic = generic_prompts(synonyms, reasons, num_des, mode, "generic.json")
    specific = image_prompts(synonyms, reasons, num_des, mode, "image.json")
    assert specific is not None
    assert generic.class_index is None and specific.class_index == tuple(range(len(synonyms)))
    assert generic.sentences == specific.sentences
    assert np.array_equal(generic.row_members, specific.row_members)


def test_the_published_groups_mix_attributes() -> None:
    """Quirk 1 by hand: with K = 3 the first row of a synonym ends in the middle of the fifth template."""
    prompts = image_prompts([("cat",)], reasons_of({"cat": ["x", "y", "z"]}), 3, "reference", "a.json")
    assert prompts is not None
    first = [prompts.sentences[number] for number in prompts.row_members[0]]
    assert first[:4] == [
        "a photo of a cat that has x.",
        "a photo of a cat that has y.",
        "a photo of a cat that has z.",
        "This is a photo of a cat that has x",
    ]
    assert first[-2:] == ["a photo of a cat that has x in the scene", "a photo of a cat that has y in the scene"]


def test_a_key_with_two_names_serves_both_classes_and_the_first_key_wins() -> None:
    reasons = reasons_of({"zebra": ["s"], "dog, cat": ["two"], "cat": ["one"]})
    prompts = image_prompts([("cat",), ("bird",), ("dog", "hound")], reasons, 1, "reference", "a.json")
    assert prompts is not None
    assert prompts.class_index == (0, 2)
    assert prompts.sentences[0] == "a photo of a cat that has two."
    assert prompts.sentences[2 * T] == "a photo of a hound that has two."
    assert prompts.ignored == ("zebra",)


def test_missing_attributes_repeat_in_turn() -> None:
    prompts = image_prompts([("cat",)], reasons_of({"cat": ["x", "y"]}), 5, "aligned", "a.json")
    assert prompts is not None and prompts.padded == ("cat",)
    ends = [prompts.sentences[members[0]].removeprefix("a photo of a cat that has ") for members in prompts.row_members]
    assert ends == ["x.", "y.", "x.", "y.", "x."]


def test_class_without_attributes_is_not_covered_even_if_a_later_key_has_some() -> None:
    reasons = reasons_of({"cat": [], "cat, feline": ["fur"], "dog": ["tail"]})
    prompts = image_prompts([("cat",), ("dog",)], reasons, 2, "reference", "a.json")
    assert prompts is not None and prompts.class_index == (1,) and prompts.empty == ("cat",)
    assert image_prompts([("cat",)], reasons, 2, "reference", "a.json") is None


def test_generic_error_names_file_and_classes() -> None:
    with pytest.raises(UserError, match=r"g\.json: no generic reason for 'dog', 'eel' of 3 classes"):
        generic_prompts([("cat",), ("dog", "hound"), ("eel",)], reasons_of({"cat": ["fur"]}), 3, "reference", "g.json")
    with pytest.raises(UserError, match=r"g\.json: no attribute for 'cat'"):
        generic_prompts([("cat",)], reasons_of({"cat": []}), 3, "reference", "g.json")


@pytest.mark.parametrize("num_des", [0, -1, 2.0, True])
def test_bad_number_of_attributes(num_des) -> None:
    with pytest.raises(UserError, match=r"MODEL\.NUM_DES"):
        image_prompts([("cat",)], reasons_of({"cat": ["fur"]}), num_des, "reference", "a.json")


def test_bad_mode_and_bad_vocabulary() -> None:
    with pytest.raises(UserError, match=r"MODEL\.REASON\.MODE: 'aligend'"):
        image_prompts([("cat",)], reasons_of({"cat": ["fur"]}), 1, "aligend", "a.json")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no class"):
        plain_prompts([])
    with pytest.raises(UserError, match="class 1"):
        plain_prompts([("cat",), ()])
    with pytest.raises(TypeError, match="'cat'"):
        plain_prompts(["cat"])


def test_other_template_sets() -> None:
    two = TemplateSet("two", ("a {}", "the {}"))
    prompts = image_prompts([("cat",)], reasons_of({"cat": ["x", "y", "z"]}), 3, "reference", "a.json", two)
    assert prompts is not None and prompts.row_members.tolist() == [[0, 1], [2, 3], [4, 5]]
