"""Memory that stays with the process, counted in pages that the system had to give."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from maft.memory import OWN_SETTINGS

_FAULTS = """
import resource, sys
import torch
from maft.memory import keep_freed_memory, return_freed_memory
kept = keep_freed_memory() if sys.argv[1] != "leave" else None
if sys.argv[1] == "undo":
    return_freed_memory()
def layers():
    values = torch.ones(2**24)
    for _ in range(3):
        values = values * 2
for _ in range(3):
    layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    layers()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(repository: Path, how: str, **variables: str) -> tuple[str, int]:
    """What the function returned, and the pages that sixteen tensors of 64 MiB needed, after others."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS} | variables
    words = [sys.executable, "-c", _FAULTS, how]
    done = subprocess.run(words, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's here")
def test_freed_memory_is_used_again_unless_users_say_otherwise(repository: Path) -> None:
    left_alone, settings = faults(repository, "leave"), faults(repository, "keep", MALLOC_TRIM_THRESHOLD_="131072")
    kept, few = faults(repository, "keep")
    undone = faults(repository, "undo")
    assert kept == "True" and settings[0] == "False"
    # Which free block fits depends on where the others lie, and that is different in every process.
    assert few * 2 < min(left_alone[1], settings[1], undone[1]), (few, left_alone, settings, undone)
