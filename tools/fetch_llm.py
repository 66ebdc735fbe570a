"""Put a multimodal model into llm/, from the Hugging Face hub, and check that it is whole.

    bash tools/fetch_llm.sh                               Qwen2.5-VL-72B-Instruct-AWQ, the paper's (about 43 GB)
    bash tools/fetch_llm.sh Qwen2.5-VL-7B-Instruct-AWQ    another one of Qwen's (7 GB)
    bash tools/fetch_llm.sh OWNER/NAME                    anyone's, into llm/NAME
    bash tools/fetch_llm.sh --check [NAME]                only say whether it is whole; nothing is fetched

A download that broke off goes on where it stopped; what is there already is not fetched again. Environment: HF_TOKEN
for models that ask for one, HF_ENDPOINT for a mirror, HTTPS_PROXY as usual. Exit status: 0, or 2 if the model is not
there afterwards, whole.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from reason.engines.model_folder import read_model_folder
from reason.errors import ReasonError, run_command
from reason.files import user_path

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = "Qwen2.5-VL-72B-Instruct-AWQ"
OWNER = "Qwen"
PATTERNS = ("*.json", "*.jinja", "*.txt", "*.safetensors", "LICENSE*", "README.md")
"""What an engine needs; some repositories hold the same weights in other formats beside."""
MARGIN = 2**30
"""Bytes of the disk that are left alone."""


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="fetch_llm.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", default=DEFAULT, metavar="NAME", help=f"default: {DEFAULT}")
    parser.add_argument("--folder", type=user_path, default=Path(os.path.relpath(ROOT / "llm")), help="default: llm/")
    parser.add_argument("--revision", default="main", help="branch, tag or commit (default: main)")
    parser.add_argument("--check", action="store_true", help="only check what is there")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(words)


def missing_bytes(sizes: Mapping[str, int], target: Path) -> int:
    """How much of a repository is still to come.

    Args:
        sizes: file name to bytes.
        target: the model's folder; a file of another size there counts as missing.
    """
    there = {
        name for name, size in sizes.items() if (target / name).is_file() and (target / name).stat().st_size == size
    }
    return sum(size for name, size in sizes.items() if name not in there)


def check_space(needed: int, target: Path) -> None:
    """Refuse a download that the disk cannot hold.

    Raises:
        ReasonError: too little is free.
    """
    place = next(folder for folder in (target, *target.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed + MARGIN > free:
        raise ReasonError(
            f"{target}: {needed / 1e9:.1f} GB are to come, and {free / 1e9:.1f} GB of the disk are free: make room, or "
            f"fetch to another disk with --folder and name that folder to --model"
        )


def fetch(repository: str, revision: str, target: Path) -> None:
    """Bring a repository of the hub into a folder, or what of it is missing there.

    Raises:
        ReasonError: no such repository, no access, no network, or no room.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    by_hand = f"; a folder fetched elsewhere may be copied to {target}"
    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
        wanted = {name: sizes[name] for name in filter_repo_objects(sizes, allow_patterns=list(PATTERNS))}
        needed = missing_bytes(wanted, target)
        total = sum(wanted.values())
        print(f"{repository}: {len(wanted)} files, {total / 1e9:.1f} GB, of which {needed / 1e9:.1f} GB are to come")
        check_space(needed, target)
        snapshot_download(repository, revision=info.sha, local_dir=target, allow_patterns=list(PATTERNS))
    except ReasonError:
        raise
    except Exception as error:
        # The hub's client lets errors of its HTTP library through, whose types change with its version.
        what = " ".join(str(error).split())[:300] or type(error).__name__
        raise ReasonError(f"{repository}: cannot be fetched from the hub ({what}){by_hand}") from error


def main(words: Sequence[str] | None = None) -> int:
    """Fetch, then check; returns the exit status."""
    arguments = parse_arguments(words)

    def run() -> None:
        repository = arguments.name if "/" in arguments.name else f"{OWNER}/{arguments.name}"
        target = arguments.folder / repository.rpartition("/")[2]
        if not arguments.check:
            fetch(repository, arguments.revision, target)
        model = read_model_folder(target)
        method = model.quantisation.get("quant_method", "not quantised")
        print(f"ok: {target} is whole: {len(model.weights)} weight files, {model.weight_bytes / 1e9:.1f} GB, {method}")

    return run_command(run, debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
