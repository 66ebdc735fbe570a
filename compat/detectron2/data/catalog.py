"""The two global catalogs: how to load a data set, and what is constant about it."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class _Catalog(UserDict):
    """Names to objects, with what both catalogs share."""

    def list(self) -> list[str]:
        """The registered names, in the order of registration."""
        return [*self]

    def remove(self, name: str) -> None:
        """Forget `name`; KeyError if it is not registered."""
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """Data set names to functions that return the list of their items (dicts)."""

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Register `func`, which returns the same items at every call; AssertionError if the name is taken."""
        assert callable(func), f"a data set is registered with a function, not with {func!r}"
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> Any:  # type: ignore[override]
        """Call the function of data set `name`; KeyError, which lists the known ones, if there is none."""
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self)}")
        return self[name]()


class Metadata(SimpleNamespace):
    """What is constant about one data set, as attributes. An attribute is set once; later only to an equal value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        known = ", ".join(k for k in vars(self) if k != "name") or "none"
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. Available keys are: {known}"
        )

    def __setattr__(self, key: str, value: Any) -> None:
        if key not in vars(self):
            super().__setattr__(key, value)
        old = vars(self)[key]
        assert old is value or old == value, (
            f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different value!\n{old} != {value}"
        )

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


class _MetadataCatalog(_Catalog):
    """Data set names to their Metadata."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """The Metadata of `name`: always the same object, made empty at the first call."""
        assert len(name), "a data set's name cannot be empty"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
