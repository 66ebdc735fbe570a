"""What `prepare_datasets --list` says and `--download` does: which files to bring, from where, and under what terms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from maft.errors import UserError, one_line

from ..dataset_facts import ARCHIVES, Archive, archives_of, chosen
from ..download import fetch


def run_list(names: Sequence[str], *, as_json: bool = False) -> int:
    """Print what the data sets are made from; all of them if none is named.

    Returns:
        exit status 0.

    Raises:
        UserError: an unknown name.
    """
    print(json.dumps(list_records(names), indent=1) if as_json else list_table(names))
    return 0


def list_records(names: Sequence[str]) -> list[dict[str, Any]]:
    """The same for programs: one object a data set, with its archives."""
    return [
        {
            "name": facts.name,
            "title": facts.title,
            "datasets": [split.dataset for split in facts.splits],
            "images": {split.dataset: asdict(split.images) for split in facts.splits},
            "archives": [asdict(ARCHIVES[key]) for key in facts.archives],
            "instead": {ARCHIVES[key].file_name: meaning for key, meaning in facts.instead.items()},
        }
        for facts in chosen(names)
    ]


def list_table(names: Sequence[str]) -> str:
    """The same for people: which data set needs what, then each archive once."""
    datasets = chosen(names)
    needs, archives = [], list(archives_of(datasets))
    for facts in datasets:
        files = [ARCHIVES[key].file_name for key in facts.archives]
        needs.append([facts.name, facts.title, "\n".join(files)])
        for key in facts.instead:
            if ARCHIVES[key] not in archives:
                archives.append(ARCHIVES[key])
    rows = [
        [archive.file_name, archive.size_shown, "yes" if archive.registration else "no", _fetching(archive)]
        for archive in archives
    ]
    lines = [tabulate(needs, ["name", "data set", "made from"], tablefmt="simple_grid"), ""]
    lines += [tabulate(rows, ["file", "size", "registration", "fetched by --download"], tablefmt="simple_grid"), ""]
    for archive in archives:
        lines.append(f"{archive.file_name}: {archive.content}")
        lines += [f"  from     {url}" for url in archive.urls] or [f"  from     {archive.page}"]
        lines.append(f"  licence  {archive.licence}")
        lines += [f"  first    {archive.registration}"] * bool(archive.registration)
        lines += [f"  note     {archive.note}"] * bool(archive.note)
    for facts in datasets:
        for key, meaning in facts.instead.items():
            lines.append(f"{facts.name} can also be made from {ARCHIVES[key].file_name}: {meaning}")
    return "\n".join(lines)


def _fetching(archive: Archive) -> str:
    return "yes" if archive.urls else "no, by hand"


def run_download(names: Sequence[str], folder: Path) -> int:
    """Fetch what may be fetched freely, say what has to be brought by hand, and go on after a failure.

    Args:
        names: data sets; all if empty.
        folder: where the archives go; what lies there whole is not fetched again.

    Returns:
        exit status: 0 if everything that may be fetched freely is there, else 1.

    Raises:
        UserError: an unknown name.
    """
    archives = archives_of(chosen(names))
    failed = []
    for archive in archives:
        if not archive.urls:
            continue
        print(f"{archive.file_name} ({archive.size_shown}; licence: {archive.licence})", flush=True)
        try:
            path = fetch(archive.urls, folder / archive.file_name, size=archive.size, digest=archive.digest)
        except UserError as error:
            failed.append(f"{archive.file_name}: {one_line(error)}. Its page: {archive.page}")
        else:
            print(f"  is there: {path}", flush=True)
    for archive in archives:
        if not archive.urls:
            print(f"by hand: {archive.file_name}: {archive.registration}; {archive.page}")
    for failure in failed:
        print(f"FAILED: {failure}")
    return int(bool(failed))
