"""How well the model reasons about the mini world, where its errors arise, and what each costs the segmentor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from maft.errors import UserError
from reason.triplets import TripletError, dump_image, load_generic, load_image

from .dataset import REASON_DATA, Layout
from .lmm.steps import SWAPS, figures, judge, swapped, true_values
from .methods import Method
from .results import COLUMNS, QUALITIES, read_evaluation, scores_of, write_json
from .run import evaluate_methods
from .scenes import render_scene


def reasoning(layout: Layout, output: Path, *, segment: bool, resume: bool) -> dict[str, Any]:
    """Judge the model's reasons for all validation images; print tables and write reasoning.json.

    Args:
        layout: of the validation split; its own reasons are judged.
        output: where reasoning.json goes, and the evaluations.
        segment: also evaluate the segmentor with the truth in place of each step.
        resume: reuse finished evaluations.

    Raises:
        UserError: reasons are missing, or an evaluation fails.
    """
    triplets, scenes = {}, {}
    for path in sorted(layout.images.glob("val_*.png")):
        try:
            triplets[path.stem] = load_image(layout.reason_dir() / REASON_DATA / f"{path.stem}.json")
        except TripletError as error:
            raise UserError(f"{error}; run bash eval_reason_base.sh mini") from error
        scenes[path.stem] = render_scene(int(path.stem.removeprefix("val_")), "val")
    judged = [(scenes[stem], triplets[stem], judge(scenes[stem], triplets[stem])) for stem in triplets]
    found: dict[str, Any] = {
        "images": len(judged),
        "figures": figures(judged),
        "generic attributes": true_values(load_generic(layout.generic_reason())),
    }
    print(_tables(found))
    if segment:
        methods = [Method("as_is", "the model as it is", True, _keys(layout, layout.reason_dir()))]
        for swap, title in SWAPS.items():
            folder = output / "swapped" / swap
            for stem, triplet in triplets.items():
                dump_image(swapped(scenes[stem], triplet, swap), folder / REASON_DATA / f"{stem}.json")
            methods.append(Method(swap, title, True, _keys(layout, folder)))
        evaluate_methods(methods, output, {}, resume=resume)
        scores = {method.name: scores_of(read_evaluation(output / method.name)) for method in methods}
        found["swapped"] = scores
        rows = [[method.title, *(scores[method.name][key] for key in (*COLUMNS, *QUALITIES))] for method in methods]
        print(f"\n{tabulate(rows, headers=['', *COLUMNS, *QUALITIES], floatfmt='.1f', tablefmt='github')}")
    write_json(output / "reasoning.json", found)
    print(f"\n{output / 'reasoning.json'}")
    return found


def _keys(layout: Layout, folder: Path) -> dict[str, str]:
    return {
        "MODEL.TEST_CLASS_REASON_JSON": str(layout.generic_reason()),
        "MODEL.REASON_DIR": str(folder),
        "MODEL.REASON_DATA": REASON_DATA,
    }


def _tables(found: Mapping[str, Any]) -> str:
    values = found["figures"]
    kinds = ("missed", "added", "misread")
    parts = [[name, f"{value:.3f}"] for name, value in values.items() if name.split()[0] not in kinds]
    parts.append(["generic reasons: attributes", f"{found['generic attributes']:.3f}"])
    errors = [[kind, *(int(values[f"{kind} {step}"]) for step in ("LOOK", "NAME", "REASON"))] for kind in kinds]
    first = tabulate(parts, headers=[f"{found['images']} images", "part"], tablefmt="github", disable_numparse=True)
    return f"{first}\n\n{tabulate(errors, headers=['errors', 'LOOK', 'NAME', 'REASON'], tablefmt='github')}"
