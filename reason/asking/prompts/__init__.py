"""The prompts: versioned templates, each in a file of its own.

A version is a folder of the templates that `TEMPLATES` names, with `$placeholders`. The system turns hold all that does
not change from image to image, so that an engine with a prefix cache computes the vocabulary once; what a user's turn
adds is short.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reason.errors import ReasonError

AnswerForm = Literal["json", "text"]

TEMPLATES: dict[str, frozenset[str]] = {
    "image_system": frozenset({"count", "classes", "least", "most", "form"}),
    "image_form_json": frozenset(),
    "image_form_text": frozenset(),
    "image_look": frozenset(),
    "image_name": frozenset(),
    "image_reason": frozenset({"names"}),
    "generic_system": frozenset({"count", "classes", "least", "most", "form"}),
    "generic_form_json": frozenset(),
    "generic_form_text": frozenset(),
    "generic_reason": frozenset({"name"}),
}
"""The templates of a version (the file is `<name>.txt`) with their placeholders."""


@dataclass(frozen=True)
class PromptSet:
    """One version of the prompts.

    Attributes:
        version: the name of its folder.
        hash: hexadecimal SHA-256 over names and contents of all templates.
        templates: (name, content) of every template, sorted by name.
    """

    version: str
    hash: str
    templates: tuple[tuple[str, str], ...]

    def image_system(self, class_lines: Sequence[str], form: AnswerForm, attributes: tuple[int, int]) -> str:
        """The system turn for images: the three steps, the form of the answers, the whole vocabulary.

        Args:
            class_lines: one line a class, in label order (`VocabularyNames.lines`).
            form: of the answers.
            attributes: least and largest number of attributes of a class.
        """
        return self._system("image", class_lines, form, attributes)

    def generic_system(self, class_lines: Sequence[str], form: AnswerForm, attributes: tuple[int, int]) -> str:
        """The system turn for generic reasons; as `image_system`."""
        return self._system("generic", class_lines, form, attributes)

    def image_look(self) -> str:
        """The user's turn that asks for the description."""
        return self._fill("image_look")

    def image_name(self) -> str:
        """The user's turn that asks for the candidate classes."""
        return self._fill("image_name")

    def image_reason(self, labels: Sequence[str]) -> str:
        """The user's turn that asks for the reasons of these classes."""
        return self._fill("image_reason", names=", ".join(labels))

    def generic_reason(self, class_line: str) -> str:
        """The user's turn that asks for the generic reason of a class, given by its line of the list."""
        return self._fill("generic_reason", name=class_line)

    def _system(self, kind: str, class_lines: Sequence[str], form: AnswerForm, attributes: tuple[int, int]) -> str:
        return self._fill(
            f"{kind}_system",
            count=str(len(class_lines)),
            classes="\n".join(class_lines),
            least=str(attributes[0]),
            most=str(attributes[1]),
            form=self._fill(f"{kind}_form_{form}"),
        )

    def _fill(self, template: str, **values: str) -> str:
        return string.Template(dict(self.templates)[template]).substitute(values)


def load_prompts(version: str = "v1", folder: Path | None = None) -> PromptSet:
    """Read one version of the prompts.

    Args:
        version: such as "v1".
        folder: what holds the versions' folders; None: those of this package.

    Raises:
        ReasonError: an unknown version, a file missing or unreadable, or a placeholder missing or unknown.
    """
    shelf = folder or Path(__file__).parent
    home = shelf / version
    if not version or not home.is_dir():
        known = ", ".join(sorted(path.parent.name for path in shelf.glob("*/image_system.txt"))) or "none"
        raise ReasonError(f"--prompts {version!r}: no such version of the prompts in {shelf}; known are {known}")
    templates = tuple((name, _read(home / f"{name}.txt", TEMPLATES[name])) for name in sorted(TEMPLATES))
    digest = hashlib.sha256()
    for name, content in templates:
        digest.update(f"{name}\0{content}\0".encode())
    return PromptSet(version, digest.hexdigest(), templates)


def _read(path: Path, wanted: frozenset[str]) -> str:
    try:
        content = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ReasonError(f"{path}: this template cannot be read ({problem}); copy it from another version") from error
    if not content:
        raise ReasonError(f"{path}: this template is empty; copy it from another version")
    found: set[str] = set()
    for match in string.Template.pattern.finditer(content):
        name = match["named"] or match["braced"]
        if name:
            found.add(name)
        elif match["invalid"] is not None:
            line = content.count("\n", 0, match.start()) + 1
            raise ReasonError(f"{path}: line {line}: a lone $ sign; write $$")
    for name in sorted(found ^ wanted):
        problem = "is missing from this template" if name in wanted else "is no placeholder of this template"
        raise ReasonError(f"{path}: ${name} {problem}; it needs {_listed(wanted)}")
    return content


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"${name}" for name in sorted(names)) or "no placeholder"
