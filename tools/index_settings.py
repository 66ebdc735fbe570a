"""Where pip looks for packages, said in uv's words.

install.sh installs with uv, which does not read pip's configuration: behind a mirror or a proxy pip would find its
packages and uv would not. This module reads what pip is configured with, from its files and from the environment
alike, and prints the same as assignments that a shell can evaluate. It imports nothing but the standard library,
because it runs before anything is installed:

    eval "$(.venv/bin/python tools/index_settings.py)"
"""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping

_SCOPES = (":env:", "install", "global")
"""The sections of pip's configuration that hold for `pip install`, the strongest first."""


def parse_pip_config(listing: str) -> dict[str, str]:
    """Read what `pip config list` prints.

    Args:
        listing: lines of the form `global.index-url='…'` or `:env:.index-url='…'`.

    Returns:
        Option name (with dashes) to value, from the strongest section that names it. Other sections are left out.
    """
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        key, separator, literal = line.partition("=")
        scope, dot, option = key.strip().rpartition(".")
        if not separator or not dot or scope not in _SCOPES:
            continue
        try:
            value = str(ast.literal_eval(literal))
        except (ValueError, SyntaxError):
            continue
        rank = _SCOPES.index(scope)
        if option not in found or rank < found[option][0]:
            found[option] = (rank, value)
    return {option: value for option, (_, value) in found.items()}


def uv_settings(options: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Translate pip's options into the environment variables that mean the same to uv.

    Args:
        options: pip's options, as `parse_pip_config` returns them.
        environment: the variables already set. What the user has told uv stays as it is.

    Returns:
        The variables to set in addition; empty where pip has its defaults.
    """
    settings: dict[str, str] = {}

    def words(option: str) -> list[str]:
        return options.get(option, "").split()

    if words("index-url"):
        settings["UV_DEFAULT_INDEX"] = words("index-url")[0]
    if words("extra-index-url"):
        settings["UV_INDEX"] = " ".join(words("extra-index-url"))
        # pip takes the best version of all its indexes; uv by default stops at the first that knows the name.
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if words("find-links"):
        settings["UV_FIND_LINKS"] = ",".join(words("find-links"))
    if words("trusted-host"):
        settings["UV_INSECURE_HOST"] = " ".join(words("trusted-host"))
    if options.get("cert"):
        settings["SSL_CERT_FILE"] = options["cert"]
    if options.get("proxy"):
        settings["HTTPS_PROXY"] = settings["HTTP_PROXY"] = options["proxy"]
    if {"UV_INDEX_URL", "UV_DEFAULT_INDEX"} & environment.keys():
        settings.pop("UV_DEFAULT_INDEX", None)
    if {"UV_EXTRA_INDEX_URL", "UV_INDEX"} & environment.keys():
        settings.pop("UV_INDEX", None)
    return {name: value for name, value in settings.items() if name not in environment}


def main() -> int:
    """Print the assignments; nothing where pip is not there or has its defaults."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    for name, value in uv_settings(parse_pip_config(listing), os.environ).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
