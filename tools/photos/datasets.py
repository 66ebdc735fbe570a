"""The photographs as data sets: `photos_sem_seg_val` and `photos_panoptic_val`."""

from __future__ import annotations

from pathlib import Path

from maft.data import register_custom
from maft.errors import UserError
from tools.photos.content import IGNORE_LABEL
from tools.photos.prepare import Layout, default_root

PREFIX = "photos_"
"""How the names of these data sets begin."""

SEMANTIC = "photos_sem_seg_val"
PANOPTIC = "photos_panoptic_val"


def register(root: str | Path | None = None) -> tuple[str, ...]:
    """Register the prepared photographs; a second call, with another root for example, replaces the first.

    Args:
        root: where `prepare` wrote them; the default root if None.

    Returns:
        the names of the data sets.

    Raises:
        UserError: they are not prepared there.
    """
    layout = Layout(default_root() if root is None else Path(root))
    if not layout.panoptic_json.is_file():
        raise UserError(
            f"{layout.panoptic_json}: no such file; run python -m tools.photos prepare --root {layout.root} first"
        )
    register_custom(SEMANTIC, layout.vocabulary, layout.images, layout.annotations, ignore_label=IGNORE_LABEL)
    register_custom(
        PANOPTIC,
        layout.vocabulary,
        layout.images,
        layout.panoptic,
        panoptic_json=layout.panoptic_json,
        semantic_dir=layout.annotations,
        ignore_label=IGNORE_LABEL,
    )
    return SEMANTIC, PANOPTIC
