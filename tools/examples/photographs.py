"""The photographs: which ones, and reading them out of the packages that ship them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from maft.errors import UserError
from reason.jsonfile import JsonError, read_json

from ..commands import INSTALLED

FOLDER = Path(__file__).resolve().parent
VOCABULARY, GENERIC_REASONS = FOLDER / "vocabulary.json", FOLDER / "generic_reason.json"
IMAGE_REASONS = FOLDER / "image_reason"
"""Folder of the image-specific reasons, `<name>.json` each."""

LONG_SIDE = 640
"""The long side of a photograph is at most this many pixels."""

_WAY_OUT = "pip install 'openseg-r[eval]'" if INSTALLED else "run bash install.sh"
_SOURCES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Photograph:
    """One photograph.

    Attributes:
        name: file name without suffix.
        package: the package that ships it, "skimage" or "sklearn".
        file: its path inside the package.
        size: (width, height) in pixels, as `open_photograph` returns it.
        credit: author and licence.
    """

    name: str
    package: str
    file: str
    size: tuple[int, int]
    credit: str

    @property
    def reasons(self) -> Path:
        """The file of its image-specific reasons."""
        return IMAGE_REASONS / f"{self.name}.json"


def load_photographs() -> tuple[Photograph, ...]:
    """All photographs, by name.

    Raises:
        UserError: the list of them is damaged.
    """
    try:
        entries = read_json(FOLDER / "photographs.json")
    except JsonError as error:
        raise UserError(f"{FOLDER / 'photographs.json'}: {error}") from error
    return tuple(Photograph(**{**entry, "size": tuple(entry["size"])}) for entry in entries)


def open_photograph(photograph: Photograph) -> Image.Image:
    """Read the photograph from the package that ships it: RGB, of `photograph.size`.

    Raises:
        UserError: the package or the file is not installed, or the image is another one than the reasons describe.
    """
    spec = importlib.util.find_spec(photograph.package)  # the package itself need not be imported
    if spec is None or spec.origin is None:
        raise UserError(f"{_SOURCES[photograph.package]}: not installed, it ships a photograph; {_WAY_OUT}")
    path = Path(spec.origin).parent / photograph.file
    try:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
    except OSError as error:
        raise UserError(f"{path}: the photograph cannot be read ({error}); {_WAY_OUT}") from error
    scale = min(1.0, LONG_SIDE / max(pixels.size))
    size = (round(pixels.width * scale), round(pixels.height * scale))
    if size != photograph.size:
        raise UserError(f"{path}: {size[0]}x{size[1]} pixels, described was another version; {_WAY_OUT}")
    return pixels if size == pixels.size else pixels.resize(size, Image.Resampling.LANCZOS)


def write_photographs(folder: Path) -> list[Path]:
    """Write all photographs into a folder as `<name>.png`; returns the files.

    Raises:
        UserError: see `open_photograph`, or the folder cannot be written.
    """
    written = []
    for photograph in load_photographs():
        image, path = open_photograph(photograph), folder / f"{photograph.name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            image.save(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error}); name another folder") from error
        written.append(path)
    return written
