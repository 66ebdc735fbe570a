"""SED's text: one plane a template and class, with or without reasons (docs/numerics_sed.md sections 3 and 10).

Where MAFT+ averages a sentence over its templates into one row, SED keeps a feature a template: the cost map has a
plane for each. Several names of a class are averaged a template; attributes are kept apart, as the design says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.errors import UserError
from maft.text.prompts import check_num_des
from maft.text.templates import TemplateSet
from reason.triplets import Reason

Design = Literal["passes", "joint", "mean", "spread"]
DESIGNS: tuple[Design, ...] = ("passes", "joint", "mean", "spread")
_LISTED = 5


@dataclass(frozen=True, eq=False)
class PlanePrompts:
    """What to encode, and how sentences fold into planes.

    Attributes:
        sentences: attribute, covered class, template and name, the last running fastest.
        groups: attributes that are kept apart; 1 for plain class names and in the design "spread".
        templates: T.
        names_per_class: names of every covered class, in order.
        class_index: ascending vocabulary indices of the covered classes; None where all are covered by construction.
        blend: average the groups into one after all.
        padded, empty, ignored: as of `maft.text.prompts.Prompts`.
        by_other_names: covered classes that only a name of the other list found in the reasons.
        source: the reason file's name, for messages.
    """

    sentences: tuple[str, ...]
    groups: int
    templates: int
    names_per_class: tuple[int, ...]
    class_index: tuple[int, ...] | None
    blend: bool = False
    padded: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    by_other_names: tuple[str, ...] = ()
    source: str = ""


def check_design(design: str) -> Design:
    """`design` if it is one.

    Raises:
        UserError: it is none.
    """
    for known in DESIGNS:
        if design == known:
            return known
    raise UserError(f"SED.ATTRIBUTES: {design!r} is no design; choose one of {', '.join(DESIGNS)}")


def plain_planes(names: Sequence[Sequence[str]], templates: TemplateSet) -> PlanePrompts:
    """Class names alone.

    Args:
        names: of every class, as SED splits them.
        templates: the set.
    """
    sentences = tuple(
        sentence
        for own in names
        for of_template in zip(*map(templates.fill, own), strict=True)
        for sentence in of_template
    )
    return PlanePrompts(sentences, 1, len(templates), tuple(len(own) for own in names), None)


def reason_planes(
    names: Sequence[Sequence[str]],
    reasons: Mapping[str, Reason],
    num_des: int,
    design: str,
    source: str,
    templates: TemplateSet,
    other_names: Sequence[Sequence[str]] | None = None,
) -> PlanePrompts | None:
    """Reasons that cover some of the classes.

    Args:
        names: of every class, as SED splits them.
        reasons: of the file, in its order.
        num_des: K, attributes a class; fewer are repeated cyclically.
        design: one of `DESIGNS`.
        source: the file's name, for messages.
        templates: the set.
        other_names: names that the file may have been written for instead; asked where `names` find nothing.

    Returns:
        The prompts, or None if no class is covered.

    Raises:
        UserError: a bad `num_des` or `design`.
    """
    prompts = _prompts(names, reasons, num_des, design, source, templates, other_names, every_class=False)
    return prompts if prompts.class_index else None


def mixed_planes(
    names: Sequence[Sequence[str]],
    reasons: Mapping[str, Reason],
    num_des: int,
    design: str,
    source: str,
    templates: TemplateSet,
    other_names: Sequence[Sequence[str]] | None = None,
) -> PlanePrompts:
    """Reasons for some classes, names for the others: what the Python interface makes of a mapping (not the paper's).

    A class without a reason has its names alone in every attribute's place, so that all classes are compared.
    Arguments and errors as of `reason_planes`.
    """
    prompts = _prompts(names, reasons, num_des, design, source, templates, other_names, every_class=True)
    return replace(prompts, class_index=None)


def find_reasons(
    names: Sequence[Sequence[str]], reasons: Mapping[str, Reason], other_names: Sequence[Sequence[str]] | None
) -> list[str | None]:
    """The key of `reasons` that every class takes, or None: by `names`, else by the names of the other list."""
    return _or_by_others(_closest_keys(names, reasons), reasons, other_names)


def _or_by_others(
    by_own: list[str | None], reasons: Mapping[str, Reason], other_names: Sequence[Sequence[str]] | None
) -> list[str | None]:
    """The keys found by a class's own names, and those of the other list's names where there is none."""
    if other_names is None:
        return by_own
    others = _closest_keys(other_names, reasons)
    return [other if own is None else own for own, other in zip(by_own, others, strict=True)]


def _closest_keys(names: Sequence[Sequence[str]], reasons: Mapping[str, Reason]) -> list[str | None]:
    """The key that shares most names with each class, the first of equals.

    SED's strings of ade847 share names ("screen, crt screen" and "blind, screen"), so one name in common is not enough.
    """
    keys = list(reasons)
    having: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        for part in {part.strip() for part in key.split(",")}:
            having.setdefault(part, []).append(position)
    found: list[str | None] = []
    for own in names:
        shared = Counter(position for name in set(own) for position in having.get(name, ()))
        found.append(keys[min(shared, key=lambda position: (-shared[position], position))] if shared else None)
    return found


def _prompts(
    names: Sequence[Sequence[str]],
    reasons: Mapping[str, Reason],
    num_des: int,
    design: str,
    source: str,
    templates: TemplateSet,
    other_names: Sequence[Sequence[str]] | None,
    *,
    every_class: bool,
) -> PlanePrompts:
    """The sentences of covered classes, or of every class, those without a reason by their names alone."""
    check_num_des(num_des)
    check_design(design)
    by_own = _closest_keys(names, reasons)
    found = _or_by_others(by_own, reasons, other_names)
    given = [() if key is None else reasons[key].attributes for key in found]
    covered = [index for index, attributes in enumerate(given) if attributes]
    asked = list(range(len(names))) if every_class else covered
    groups = 1 if design == "spread" else num_des
    sentences = []
    for group in range(groups):
        for index in asked:
            for number, template in enumerate(templates.templates):
                turn = number % num_des if design == "spread" else group
                own = given[index]
                ending = f" that has {own[turn % len(own)]}" if own else ""
                sentences += [template.format(f"{name}{ending}") for name in names[index]]
    known = {name for own in (*names, *(other_names or ())) for name in own}
    return PlanePrompts(
        sentences=tuple(sentences),
        groups=groups,
        templates=len(templates),
        names_per_class=tuple(len(names[index]) for index in asked),
        class_index=tuple(asked),
        blend=design == "mean",
        padded=tuple(names[index][0] for index in covered if len(given[index]) < num_des),
        empty=tuple(names[index][0] for index, key in enumerate(found) if key is not None and not given[index]),
        ignored=tuple(key for key in reasons if known.isdisjoint(part.strip() for part in key.split(","))),
        by_other_names=tuple(names[index][0] for index in covered if by_own[index] is None),
        source=source,
    )


def generic_planes(
    names: Sequence[Sequence[str]],
    reasons: Mapping[str, Reason],
    num_des: int,
    design: str,
    source: str,
    templates: TemplateSet,
    other_names: Sequence[Sequence[str]] | None = None,
) -> PlanePrompts:
    """Generic reasons, which must cover every class; arguments as of `reason_planes`.

    Raises:
        UserError: a class without an entry or without attributes; a bad `num_des` or `design`.
    """
    prompts = reason_planes(names, reasons, num_des, design, source, templates, other_names)
    covered = set() if prompts is None or prompts.class_index is None else set(prompts.class_index)
    missing = [repr(own[0]) for index, own in enumerate(names) if index not in covered]
    if prompts is None or missing:
        more = f", … ({len(missing)})" if len(missing) > _LISTED else ""
        raise UserError(
            f"{source}: no generic reason with attributes for {', '.join(missing[:_LISTED])}{more} of {len(names)} "
            "classes; add the entries, or point MODEL.TEST_CLASS_REASON_JSON to the file of this vocabulary"
        )
    return replace(prompts, class_index=None)


def fold_planes(features: Tensor, prompts: PlanePrompts) -> Tensor:
    """Normalise, average the names of every template, normalise; in the design "mean" the attributes as well.

    Args:
        features: (M, E) text features of the sentences, not normalised.
        prompts: what they were made from.

    Returns:
        (K, n, T, E), L2-normalised; K is 1 for plain names and the designs "mean" and "spread".
    """
    rows = F.normalize(features, dim=-1)
    if any(count > 1 for count in prompts.names_per_class):
        counts = torch.tensor(prompts.names_per_class).repeat_interleave(prompts.templates).repeat(prompts.groups)
        rows = F.normalize(torch.segment_reduce(rows, "mean", lengths=counts.to(rows.device)), dim=-1)
    planes = rows.view(prompts.groups, len(prompts.names_per_class), prompts.templates, -1)
    return F.normalize(planes.mean(dim=0, keepdim=True), dim=-1) if prompts.blend else planes
