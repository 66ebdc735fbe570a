"""Which source files an evaluation runs: its modules of maft/ and reason/, found by following imports."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

from maft.evaluation.provenance import hash_files, hash_text

ROOTS = ("maft.run",)
"""The modules that an evaluation starts from."""

PACKAGES = ("maft", "reason")
COMPILED_SUFFIXES = frozenset({".cpp", ".cc", ".cu", ".cuh", ".h"})


def hash_sources(roots: Iterable[str] = ROOTS, packages: Iterable[str] = PACKAGES) -> str:
    """One hash over the source files that modules import, directly or through others, and all compiled sources.

    What only a training or another command imports does not count. Imports inside functions do, those for type
    checkers do not.

    Args:
        roots: modules to start from.
        packages: top-level packages whose files count.
    """
    hashes = []
    names = reachable(roots, packages)
    for package, folder in sorted(_folders(packages).items()):
        modules = modules_of(folder)
        used = [modules[name] for name in names if name in modules]
        compiled = [path for path in folder.rglob("*") if path.suffix in COMPILED_SUFFIXES and path.is_file()]
        hashes.append(f"{package}\0{hash_files([*used, *compiled], folder)}")
    return hash_text("\n".join(hashes))


def reachable(roots: Iterable[str], packages: Iterable[str]) -> set[str]:
    """Names of the modules that `roots` import, directly or through others, themselves and parent packages included.

    Args:
        roots: modules to start from; those that do not exist are ignored.
        packages: top-level packages that imports are followed in.
    """
    modules: dict[str, Path] = {}
    for folder in _folders(packages).values():
        modules |= modules_of(folder)
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in found or name not in modules:
            continue
        found.add(name)
        waiting += imports_of(modules[name], name, modules)
        waiting.append(name.rpartition(".")[0])
    return found


def modules_of(folder: Path) -> dict[str, Path]:
    """Module name -> file of every Python file of a package, its own `__init__.py` under the package's name."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = (folder.name, *path.relative_to(folder).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, name: str, modules: Mapping[str, Path]) -> set[str]:
    """The modules that a file imports when it runs, relative imports resolved.

    Args:
        path: a Python file.
        name: its module name.
        modules: known modules: `from a import b` means a.b where that is one of them, else a.

    Returns:
        full names, of unknown modules too.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            stem = node.module or ""
            if node.level:
                stem = importlib.util.resolve_name("." * node.level + stem, package)
            for alias in node.names:
                own = f"{stem}.{alias.name}"
                found.add(own if own in modules else stem)
    return found


def _running(tree: ast.AST) -> Iterable[ast.AST]:
    """Every node but those under `if TYPE_CHECKING`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _folders(packages: Iterable[str]) -> dict[str, Path]:
    """Package -> its folder."""
    found = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            found[package] = Path(place)
    return found
