"""The instances of one image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NoReturn

import torch


class Instances:
    """Equally long fields (scores, classes, ...), as attributes, of the instances in an image of (height, width)."""

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # Unpickling asks for attributes before _fields exists.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Cannot find field '{name}' in the given Instances!")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field; AssertionError if its length is not that of the others."""
        assert not self._fields or len(value) == len(self), f"'{name}': length {len(value)}, others {len(self)}"
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Remove a field; KeyError if there is none."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """A field; KeyError if there is none."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """All fields by name: the dict itself, no copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """The same instances, with `to` called on every field that has it."""
        moved = {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: Any) -> Instances:
        """One instance by an int (IndexError outside the range); anything else indexes every field."""
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError("Instances index out of range!")
            item = slice(item, None, len(self))  # one element that keeps the field's first axis
        return Instances(self._image_size, **{k: v[item] for k, v in self._fields.items()})

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length")

    def __iter__(self) -> NoReturn:
        raise NotImplementedError("Instances cannot be iterated over: index them")

    @staticmethod
    def cat(instance_lists: Sequence[Instances]) -> Instances:
        """Instances in images of one size, one after the other; ValueError if a field's type cannot be joined."""
        assert len(instance_lists) > 0 and all(isinstance(one, Instances) for one in instance_lists)
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        assert all(one.image_size == first.image_size for one in instance_lists), "images of different sizes"
        joined = {name: _join([one.get(name) for one in instance_lists]) for name in first.get_fields()}
        return Instances(first.image_size, **joined)


def _join(values: list[Any]) -> Any:
    """One field of several Instances as one."""
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    if isinstance(values[0], list):
        return list(itertools.chain.from_iterable(values))
    raise ValueError(f"fields of type {type(values[0])} cannot be joined")
