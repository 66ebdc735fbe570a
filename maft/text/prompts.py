"""From class names and reasons to sentences, and how sentences fold into rows.

See docs/numerics.md, "Sentences", "Rows".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from maft.errors import UserError
from maft.text.templates import TemplateSet, template_set
from reason.triplets import Reason

Mode = Literal["reference", "aligned"]
MODES: tuple[Mode, ...] = ("reference", "aligned")
_LISTED = 5


@dataclass(frozen=True, eq=False)
class Prompts:
    """What to encode, and how sentences fold into rows.

    Attributes:
        sentences: N filled templates, in the reference's order in either mode.
        row_members: (R, T) int64; row r is the average of the sentences row_members[r]. Every sentence is in one row.
        rows_per_class: rows of every covered class in order (the reference's `num_templates`): S for plain class names,
            S * K with reasons, where S is its number of synonyms. Sums to R.
        class_index: ascending vocabulary indices of the covered classes; None where all are covered by construction.
        attributes: K = NUM_DES, or None for plain class names.
        padded: names of classes whose attributes were fewer than K and repeated cyclically.
        empty: names of classes left out because their entry has no attribute (image-specific reasons only).
        ignored: keys of the reason file that belong to no class of the vocabulary.
        by_other_names: none; SED has two lists of names.
        source: the reason file's name, for messages.
    """

    sentences: tuple[str, ...]
    row_members: np.ndarray
    rows_per_class: tuple[int, ...]
    class_index: tuple[int, ...] | None
    attributes: int | None
    padded: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    by_other_names: tuple[str, ...] = ()
    source: str = ""


def plain_prompts(synonyms: Sequence[Sequence[str]], templates: TemplateSet | None = None) -> Prompts:
    """Class names alone: every class, synonym, template; one row a synonym, averaged over its templates.

    Args:
        synonyms: the names of every class of the vocabulary.
        templates: "vild" unless given.

    Raises:
        UserError: no class, or a class without a name.
    """
    frames = templates or template_set("vild")
    _check_vocabulary(synonyms)
    sentences = tuple(sentence for names in synonyms for name in names for sentence in frames.fill(name))
    members = np.arange(len(sentences), dtype=np.int64).reshape(-1, len(frames))
    return Prompts(sentences, members, tuple(len(names) for names in synonyms), None, None)


def generic_prompts(
    synonyms: Sequence[Sequence[str]],
    reasons: Mapping[str, Reason],
    num_des: int,
    mode: Mode,
    source: str,
    templates: TemplateSet | None = None,
) -> Prompts:
    """Generic reasons, which must cover every class.

    Args:
        synonyms: the names of every class of the vocabulary.
        reasons: the generic file, in its order.
        num_des: K, attributes a class.
        mode: "reference" (groups as published, quirk 1) or "aligned" (a row is one attribute over all templates).
        source: the file's name, for messages.
        templates: "vild" unless given.

    Raises:
        UserError: a class without an entry or without attributes, a bad `num_des` or `mode`, or see `plain_prompts`.
    """
    _check_vocabulary(synonyms)
    keys = match_reasons(synonyms, reasons)
    missing = [names[0] for names, key in zip(synonyms, keys, strict=True) if key is None]
    if missing:
        unknown = _unknown_keys(synonyms, reasons)
        stray = f" (its {_some(unknown)} is no class of the vocabulary)" if unknown else ""
        raise UserError(
            f"{source}: no generic reason for {_some(missing)} of {len(synonyms)} classes{stray}; add the entries, or "
            "point MODEL.TEST_CLASS_REASON_JSON to the file of this vocabulary"
        )
    prompts = _reason_prompts(synonyms, reasons, num_des, mode, source, templates or template_set("vild"))
    if prompts.empty:
        raise UserError(f"{source}: no attribute for {_some(prompts.empty)}; fill the lists under 'class_des'")
    return replace(prompts, class_index=None)


def image_prompts(
    synonyms: Sequence[Sequence[str]],
    reasons: Mapping[str, Reason],
    num_des: int,
    mode: Mode,
    source: str,
    templates: TemplateSet | None = None,
) -> Prompts | None:
    """Reasons of one image, which cover a subset of the classes.

    A class whose entry (the first key that names it) has no attribute counts as not covered.

    Args:
        as `generic_prompts`.

    Returns:
        The prompts, or None if the reasons cover no class: the caller then turns to generic ones.

    Raises:
        UserError: a bad `num_des` or `mode`, or see `plain_prompts`.
    """
    _check_vocabulary(synonyms)
    prompts = _reason_prompts(synonyms, reasons, num_des, mode, source, templates or template_set("vild"))
    return prompts if prompts.rows_per_class else None


def mixed_prompts(
    synonyms: Sequence[Sequence[str]],
    reasons: Mapping[str, Reason],
    num_des: int,
    mode: Mode,
    source: str,
    templates: TemplateSet | None = None,
) -> Prompts:
    """Reasons for some classes, names for the others: what the Python interface makes of a mapping (not the paper's).

    A class without a reason gets the rows of its names alone, once per attribute, so that all classes are compared.

    Args:
        as `generic_prompts`.

    Raises:
        UserError: a bad `num_des` or `mode`, or see `plain_prompts`.
    """
    frames = templates or template_set("vild")
    covered = _reason_prompts(synonyms, reasons, num_des, mode, source, frames)
    position = {index: place for place, index in enumerate(covered.class_index or ())}
    starts = np.cumsum((0, *covered.rows_per_class))
    sentences = list(covered.sentences)
    members: list[np.ndarray] = []
    rows_per_class: list[int] = []
    for index, names in enumerate(synonyms):
        if index in position:
            members.append(covered.row_members[starts[position[index]] : starts[position[index] + 1]])
        else:
            own = np.arange(len(names) * len(frames), dtype=np.int64).reshape(len(names), -1) + len(sentences)
            members.append(np.tile(own, (num_des, 1)))
            sentences.extend(sentence for name in names for sentence in frames.fill(name))
        rows_per_class.append(len(members[-1]))
    return replace(
        covered,
        sentences=tuple(sentences),
        row_members=np.concatenate(members),
        rows_per_class=tuple(rows_per_class),
        class_index=None,
    )


def match_reasons(synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason]) -> list[str | None]:
    """The key of `reasons` that every class takes, or None.

    It is the first key in the order of the file of which some comma part, stripped, equals one of the class's names
    exactly. A key with several parts may serve several classes.
    """
    first: dict[str, int] = {}
    keys = list(reasons)
    for position, key in enumerate(keys):
        for part in key.split(","):
            first.setdefault(part.strip(), position)
    found = [[first[name] for name in names if name in first] for names in synonyms]
    return [keys[min(positions)] if positions else None for positions in found]


def row_members(num_synonyms: int, num_templates: int, num_attributes: int, mode: Mode) -> np.ndarray:
    """The sentences of each row of one class, numbered within the class.

    Sentence (s, t, k), synonym s with template t and attribute k, has number (s * T + t) * K + k.

    Returns:
        (S * K, T) int64. "reference": rows are consecutive runs of T sentences within a synonym, synonym-major.
        "aligned": row k * S + s holds synonym s with attribute k under every template. In both, a class's rows
        reshaped to (K, S) are what the logits take the maximum over the last axis of.
    """
    numbers = np.arange(num_synonyms * num_templates * num_attributes, dtype=np.int64)
    if mode == "reference":
        return numbers.reshape(num_synonyms * num_attributes, num_templates)
    cube = numbers.reshape(num_synonyms, num_templates, num_attributes)
    return cube.transpose(2, 0, 1).reshape(num_attributes * num_synonyms, num_templates)


def check_mode(mode: str) -> Mode:
    """`mode` if it is one.

    Raises:
        UserError: it is none.
    """
    for known in MODES:
        if mode == known:
            return known
    raise UserError(f"MODEL.REASON.MODE: {mode!r} is no mode; choose one of {', '.join(MODES)}")


def check_num_des(num_des: int) -> int:
    """`num_des` if it is a positive integer.

    Raises:
        UserError: it is not.
    """
    if isinstance(num_des, bool) or not isinstance(num_des, int) or num_des < 1:
        raise UserError(f"MODEL.NUM_DES: {num_des!r} must be a whole number of attributes, at least 1")
    return num_des


def _reason_prompts(
    synonyms: Sequence[Sequence[str]],
    reasons: Mapping[str, Reason],
    num_des: int,
    mode: Mode,
    source: str,
    templates: TemplateSet,
) -> Prompts:
    check_mode(mode)
    check_num_des(num_des)
    sentences: list[str] = []
    members: list[np.ndarray] = []
    rows_per_class: list[int] = []
    class_index: list[int] = []
    padded: list[str] = []
    empty: list[str] = []
    for index, (names, key) in enumerate(zip(synonyms, match_reasons(synonyms, reasons), strict=True)):
        if key is None:
            continue
        given = reasons[key].attributes
        if not given:
            empty.append(names[0])
            continue
        if len(given) < num_des:
            padded.append(names[0])
        attributes = [given[number % len(given)] for number in range(num_des)]
        members.append(len(sentences) + row_members(len(names), len(templates), num_des, mode))
        for name in names:
            filled = [templates.fill(f"{name} that has {attribute}") for attribute in attributes]
            sentences.extend(sentence for of_template in zip(*filled, strict=True) for sentence in of_template)
        rows_per_class.append(len(names) * num_des)
        class_index.append(index)
    table = np.concatenate(members) if members else np.zeros((0, len(templates)), dtype=np.int64)
    return Prompts(
        sentences=tuple(sentences),
        row_members=table,
        rows_per_class=tuple(rows_per_class),
        class_index=tuple(class_index),
        attributes=num_des,
        padded=tuple(padded),
        empty=tuple(empty),
        ignored=_unknown_keys(synonyms, reasons),
        source=source,
    )


def _unknown_keys(synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason]) -> tuple[str, ...]:
    """The keys of a reason file that name no class of the vocabulary."""
    known = {name for names in synonyms for name in names}
    return tuple(key for key in reasons if known.isdisjoint(part.strip() for part in key.split(",")))


def _check_vocabulary(synonyms: Sequence[Sequence[str]]) -> None:
    if not synonyms:
        raise UserError("the vocabulary has no class; name at least one")
    for index, names in enumerate(synonyms):
        if isinstance(names, str):
            raise TypeError(f"class {index}: synonyms must be a sequence of names, not the text {names!r}")
        if not names:
            raise UserError(f"class {index} of the vocabulary has no name; give it at least one synonym")


def _some(names: Sequence[str]) -> str:
    more = f", … ({len(names)})" if len(names) > _LISTED else ""
    return ", ".join(repr(name) for name in names[:_LISTED]) + more
