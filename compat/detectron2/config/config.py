"""The configuration tree: fvcore's, with detectron2's defaults, versions and `@configurable`."""

from __future__ import annotations

import functools
import inspect
import logging
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import yaml
from fvcore.common.config import CfgNode as _FvcoreNode

from detectron2.utils.file_io import PathManager

__all__ = ["CfgNode", "configurable", "get_cfg"]

_logger = logging.getLogger(__name__)
_DEFAULTS_FILE = Path(__file__).with_name("defaults.yaml")


class CfgNode(_FvcoreNode):
    """fvcore's configuration node, which checks the VERSION of the files that are merged into it."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[Any]:
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a yaml file, and first the files that its `_BASE_` names, into this tree.

        Args:
            cfg_filename: the file; `_BASE_` (one path or a list of them) is relative to the file that says it.
            allow_unsafe: run Python tags in the file. Off, unlike in detectron2, where files are trusted.

        Raises:
            AssertionError: there is no such file, or it is of a later version than this tree.
            KeyError: the file has a key that this tree has not.
            ValueError: the file is of an earlier version (detectron2 would convert it), or a value has another type.
        """
        assert PathManager.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist!"
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        current = _default_tree().VERSION
        assert current == self.VERSION, f"files can only be merged into a tree of version {current}"
        version = loaded.get("VERSION")
        if version is None:
            _logger.warning("Config '%s' has no VERSION: read as version %s", cfg_filename, current)
            version = current
        assert version <= current, f"Config '{cfg_filename}' is of version {version}; this tree is of {current}"
        if version < current:
            raise ValueError(
                f"Config '{cfg_filename}' is of version {version}, which only the full detectron2 converts: "
                f"write it with the keys of version {current}"
            )
        self.merge_from_other_cfg(loaded)


def _python_value(value: Any) -> Any:
    """A leaf of defaults.yaml; text in round brackets is a tuple."""
    return literal_eval(value) if isinstance(value, str) and value.startswith("(") else value


@functools.cache
def _default_tree() -> CfgNode:
    """defaults.yaml as a tree. Its sections are named by their full path."""
    root: dict[str, Any] = {}
    for path, body in yaml.safe_load(_DEFAULTS_FILE.read_text(encoding="utf-8")).items():
        if not isinstance(body, dict):
            root[path] = _python_value(body)
            continue
        node = root
        for part in path.split("."):
            node = node.setdefault(part, {})
        node.update((key, _python_value(value)) for key, value in body.items())
    return CfgNode(root)


def get_cfg() -> CfgNode:
    """A fresh copy of detectron2's default configuration (version 2)."""
    return _default_tree().clone()


def configurable(
    init_func: Callable[..., None] | None = None, *, from_config: Callable[..., dict[str, Any]] | None = None
) -> Any:
    """Let a constructor or a function be called with a configuration instead of its arguments.

    On `__init__`, as plain `@configurable`: the class has a classmethod `from_config(cls, cfg, ...)` that returns the
    constructor's keyword arguments. On a function, as `@configurable(from_config=f)`, with such an `f(cfg, ...)`.
    A call whose first argument (or `cfg=`) is a configuration goes through `from_config`; keyword arguments that it
    does not take go to the function itself and win over what it returned. Any other call is an ordinary one.

    Raises:
        AssertionError: the decorator is on something other than `__init__`, or `from_config` is no function.
        AttributeError: (at the call) the class has no `from_config`.
        TypeError: (at the call) `from_config` is no classmethod, or does not take `cfg` first.
    """
    if init_func is not None:
        is_init = inspect.isfunction(init_func) and init_func.__name__ == "__init__"
        assert is_init and from_config is None, "@configurable without arguments belongs on a class's __init__"
        return _configurable_init(init_func)
    if from_config is None:
        return configurable  # @configurable() means the same as @configurable
    assert inspect.isfunction(from_config), "configurable needs a function as from_config"

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def call(*args: Any, **kwargs: Any) -> Any:
            if _has_config(args, kwargs):
                return func(**_explicit_arguments(from_config, args, kwargs))
            return func(*args, **kwargs)

        call.from_config = from_config  # type: ignore[attr-defined]
        return call

    return decorate


def _configurable_init(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        from_config = getattr(type(self), "from_config", None)
        wanted = f"{type(self).__name__} is @configurable and needs a classmethod from_config"
        if from_config is None:
            raise AttributeError(wanted)
        if not inspect.ismethod(from_config):
            raise TypeError(wanted)
        if _has_config(args, kwargs):
            init(self, **_explicit_arguments(from_config, args, kwargs))
        else:
            init(self, *args, **kwargs)

    return construct


def _has_config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return isinstance(kwargs.get("cfg"), _FvcoreNode) or (bool(args) and isinstance(args[0], _FvcoreNode))


def _explicit_arguments(
    from_config: Callable[..., dict[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """What `from_config` makes of the call, and over it the keyword arguments that are not for `from_config`."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as its first argument")
    takes_all = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    own = {key: value for key, value in kwargs.items() if takes_all or key in parameters}
    explicit = from_config(*args, **own)
    explicit.update((key, value) for key, value in kwargs.items() if key not in own)
    return explicit
