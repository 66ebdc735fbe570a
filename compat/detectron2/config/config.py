"""The configuration tree: fvcore's, with detectron2's defaults, versions and `@configurable`."""

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

_logger = logging.getLogger(__name__)


class CfgNode(_FvcoreNode):
    """fvcore's configuration node, which checks the VERSION of the files that are merged into it."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[Any]:
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a yaml file, and first the files that its `_BASE_` names, into this tree.

        `_BASE_` is one path or a list of them, relative to the file that says it. `allow_unsafe` runs Python tags in
        the file; it is off, unlike in detectron2, which trusts its files.

        Raises AssertionError if there is no such file or it is of a later version than this tree, ValueError if it is
        of an earlier one (detectron2 would convert it) or a value has another type, KeyError for an unknown key.
        """
        assert PathManager.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist!"
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        ours, theirs = self.VERSION, loaded.get("VERSION")
        if theirs is None:
            _logger.warning("Config '%s' has no VERSION: read as version %s", cfg_filename, ours)
            theirs = ours
        assert theirs <= ours, f"Config '{cfg_filename}' is of version {theirs}, this tree of version {ours}"
        if theirs < ours:
            raise ValueError(
                f"Config '{cfg_filename}' is of version {theirs}: write it with the keys of version {ours}"
            )
        self.merge_from_other_cfg(loaded)


@functools.cache
def _default_tree() -> CfgNode:
    """defaults.yaml as a tree: sections stand under their full path, and text in round brackets is a tuple."""
    root: dict[str, Any] = {}
    text = Path(__file__).with_name("defaults.yaml").read_text(encoding="utf-8")
    for path, body in yaml.safe_load(text).items():
        *parents, last = path.split(".")
        node = root
        for part in parents:
            node = node.setdefault(part, {})
        if isinstance(body, dict):
            node.setdefault(last, {}).update((key, _leaf(value)) for key, value in body.items())
        else:
            node[last] = _leaf(body)
    return CfgNode(root)


def _leaf(value: Any) -> Any:
    return literal_eval(value) if isinstance(value, str) and value.startswith("(") else value


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

    Raises AssertionError where it decorates something else; at the call AttributeError if the class has no
    `from_config`, TypeError if that is no classmethod or does not take `cfg` first.
    """
    if init_func is None and from_config is None:
        return configurable  # @configurable() means the same as @configurable
    if init_func is None:
        assert inspect.isfunction(from_config), "configurable needs a function as from_config"

        def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(func)
            def call(*args: Any, **kwargs: Any) -> Any:
                return _through_config(func, from_config, args, kwargs)

            call.from_config = from_config  # type: ignore[attr-defined]
            return call

        return decorate

    is_init = inspect.isfunction(init_func) and init_func.__name__ == "__init__"
    assert is_init and from_config is None, "@configurable without arguments belongs on a class's __init__"

    @functools.wraps(init_func)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        own = getattr(type(self), "from_config", None)
        if not inspect.ismethod(own):
            error = AttributeError if own is None else TypeError
            raise error(f"{type(self).__name__} is @configurable and needs a classmethod from_config")
        _through_config(functools.partial(init_func, self), own, args, kwargs)

    return construct


def _through_config(func: Callable[..., Any], from_config: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `func`, with what `from_config` makes of the arguments if they begin with a configuration."""
    if not isinstance(kwargs.get("cfg", args[0] if args else None), _FvcoreNode):
        return func(*args, **kwargs)
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as its first argument")
    takes_all = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    taken = {key: value for key, value in kwargs.items() if takes_all or key in parameters}
    explicit = from_config(*args, **taken)
    explicit.update((key, value) for key, value in kwargs.items() if key not in taken)
    return func(**explicit)
