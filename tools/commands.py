"""How the tools are called: `python -m tools.X` in a checkout, `openseg-r X` where a wheel is installed."""

from __future__ import annotations

import re

INSTALLED = __name__.partition(".")[0] != "tools"
"""Whether this folder is the package `openseg_r` of a wheel."""


def command(name: str) -> str:
    """How a user calls a tool, such as "python -m tools.fetch_weights" or "openseg-r fetch-weights".

    Args:
        name: of its module below `tools`, such as "fetch_weights".
    """
    return f"openseg-r {name.replace('_', '-')}" if INSTALLED else f"python -m tools.{name}"


def described(text: str | None) -> str:
    """A help text, such as a module's docstring, with its examples as they are called here."""
    return re.sub(r"python -m tools\.(\w+)", lambda found: command(found[1]), text or "")
