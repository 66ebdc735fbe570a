"""The two global catalogs: how to load a data set, and what is constant about it."""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]

_logger = logging.getLogger(__name__)

_RENAMED = {
    "class_names": "thing_classes",
    "dataset_id_to_contiguous_id": "thing_dataset_id_to_contiguous_id",
    "stuff_class_names": "stuff_classes",
}
"""Metadata attributes under an old name, which still work: old name -> name."""


class _Catalog(UserDict):
    """Names to objects, with the two methods that both catalogs share."""

    def list(self) -> list[str]:
        """The registered names, in the order of registration."""
        return [*self]

    def remove(self, name: str) -> None:
        """Forget `name`; KeyError if it is not registered."""
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """Data set names to functions that return the list of their items (dicts)."""

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Register `func`, which takes no arguments and returns the same items at every call.

        Raises:
            AssertionError: `func` cannot be called, or the name is taken.
        """
        assert callable(func), f"a data set is registered with a function, not with {func!r}"
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> Any:  # type: ignore[override]
        """Call the function of data set `name`.

        Raises:
            KeyError: no data set of this name; the message lists the known ones.
        """
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self)}")
        return self[name]()

    def __repr__(self) -> str:
        return f"DatasetCatalog(registered datasets: {', '.join(self)})"

    __str__ = __repr__


class Metadata(SimpleNamespace):
    """What is constant about one data set, as attributes. An attribute is set once; later only to an equal value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        if key in _RENAMED:
            return getattr(self, _current_name(key))
        known = [k for k in vars(self) if k != "name"]
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}': "
            + (f"available keys are {known}" if known else "metadata is empty.")
        )

    def __setattr__(self, key: str, value: Any) -> None:
        key = _current_name(key)
        if key in vars(self):
            old = vars(self)[key]
            assert old == value, (
                f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different value!\n"
                f"{old} != {value}"
            )
        else:
            super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """A shallow copy of all attributes, the name included."""
        return dict(vars(self))

    def set(self, **kwargs: Any) -> Metadata:
        """Set several attributes; returns this object."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or `default` if there is none."""
        return getattr(self, key, default)


def _current_name(key: str) -> str:
    """`key` itself, or the name that replaced it."""
    if key not in _RENAMED:
        return key
    _logger.warning("Metadata '%s' was renamed to '%s'!", key, _RENAMED[key])
    return _RENAMED[key]


class _MetadataCatalog(_Catalog):
    """Data set names to their Metadata."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """The Metadata of `name`: always the same object, made empty at the first call."""
        assert len(name), "a data set's name cannot be empty"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def __repr__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(self)})"

    __str__ = __repr__


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
