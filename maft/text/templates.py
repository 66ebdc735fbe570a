"""Prompt templates: the frames a class name (and an attribute) is put into before CLIP reads it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from open_clip import OPENAI_IMAGENET_TEMPLATES

from maft.errors import UserError


@dataclass(frozen=True)
class TemplateSet:
    """An ordered set of templates.

    Attributes:
        name: the value of MODEL.REASON.TEMPLATES.
        templates: each with exactly one "{}".
    """

    name: str
    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.templates:
            raise ValueError(f"template set {self.name!r} is empty")
        for template in self.templates:
            if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
                raise ValueError(f"template set {self.name!r}: {template!r} must hold exactly one {{}}")

    def __len__(self) -> int:
        return len(self.templates)

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with any template and with their order."""
        return hashlib.blake2b("\0".join(self.templates).encode(), digest_size=8).hexdigest()

    def fill(self, phrase: str) -> tuple[str, ...]:
        """Every template with `phrase` in its place; braces in the phrase are kept as they are."""
        return tuple(template.format(phrase) for template in self.templates)


def _vild() -> TemplateSet:
    """The fourteen templates of ViLD in the order that FC-CLIP and MAFT+ publish: five bare ones, nine with a size."""
    bare = (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
    )
    frames = ("a photo of a %s {}.", "This is a photo of a %s {}.", "There is a %s {} in the scene.")
    return TemplateSet("vild", bare + tuple(frame % size for frame in frames for size in ("small", "medium", "large")))


def _imagenet() -> TemplateSet:
    """OpenAI's eighty templates for ImageNet, in the usual order: "a bad photo of a {}." to "a tattoo of the {}."."""
    return TemplateSet("imagenet", tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES))


TEMPLATE_SETS = {"vild": _vild(), "imagenet": _imagenet()}


def template_set(name: str) -> TemplateSet:
    """The template set called `name`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in TEMPLATE_SETS:
        raise UserError(f"MODEL.REASON.TEMPLATES: no template set {name!r}; known: {', '.join(sorted(TEMPLATE_SETS))}")
    return TEMPLATE_SETS[name]
