"""Times the reference repository, in a process of its own: its package is called maft as ours is.

Started by `tools.bench.image --reference` (reference.py); takes turns with it: a line on standard input asks for a
round, a line of JSON on standard output answers. Nothing of this project is imported here, and nothing is written into
the reference's folder: the current directory, an empty one, gets links to its entries and the files of this run.

What the published repository does not have, or what time has changed, is stood in for:

- `maft/__init__.py` imports classes that were never published: the package is made here, without running that file.
- the compiled operators: the reference falls back to its PyTorch form of deformable attention without them.
- weights of CLIP are not downloaded: random ones take as long.
- open_clip takes the batch first since version 2.27; the reference's own `encode_text` would let sentences see each
  other. open_clip's is called instead.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = "openvocab_pascal_ctx59_sem_seg_val"
FOLDER = "benchmark"
WAYS = ("as shipped", "text on disk")
"""Every image's sentences encoded; or read from the JSON feature file that get_image_reason_feat.py writes."""


def stand_in(name: str) -> bool:
    """Import a module, or put an empty one in its place where there is none; whether it is the real one."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
        return False
    return True


def prepare(reference: Path) -> bool:
    """Link the reference into the current directory and make its package importable; whether its op is compiled."""
    for entry in reference.iterdir():
        if entry.name not in ("reason_data", ".git"):
            Path(entry.name).symlink_to(entry)
    Path("reason_data").mkdir()
    Path("reason_data/general.json").write_text("{}")
    compiled = stand_in("MultiScaleDeformableAttention")
    importlib.import_module("detectron2.projects.deeplab")  # the full detectron2
    stand_in("detectron2._C")
    package = types.ModuleType("maft")
    package.__path__ = [str(reference / "maft")]
    sys.modules["maft"] = package
    return compiled


def build(config: str, device: str) -> Any:
    """The reference's network with random weights, in evaluation mode."""
    import open_clip

    make = open_clip.create_model_and_transforms
    open_clip.create_model_and_transforms = lambda name, pretrained=None, **more: make(name, pretrained=None, **more)
    for name in ("maft.data", "maft.modeling", "maft.maft_plus"):  # they register what the config names
        importlib.import_module(name)
    keys, clip = importlib.import_module("maft.config"), importlib.import_module("maft.modeling.backbone.clip")
    clip.CLIP.encode_text = lambda self, text, normalize=False: self.clip_model.encode_text(text, normalize=normalize)
    detectron2 = importlib.import_module("detectron2.config")
    cfg = detectron2.get_cfg()
    importlib.import_module("detectron2.projects.deeplab").add_deeplab_config(cfg)
    keys.add_maskformer2_config(cfg)
    keys.add_fcclip_config(cfg)
    cfg.merge_from_file(config)
    cfg.MODEL.DEVICE = device
    cfg.MODEL.TEST_CLASS_REASON_JSON = "reason_data/general.json"
    cfg.MODEL.REASON_DIR = str(Path("reason_data/image_reason").absolute())
    cfg.MODEL.REASON_DATA = FOLDER
    cfg.DATASETS.TEST = (DATA,)
    return importlib.import_module("detectron2.modeling").build_model(cfg).eval()


class Reference:
    """The reference's network, one image, and the two ways to its text features.

    Args:
        options: see `parse_arguments`.
        model: of `build`.
    """

    def __init__(self, options: argparse.Namespace, model: Any) -> None:
        import torch

        self._model, self._device = model, options.device
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(0, 256, (3, options.height, options.width), dtype=torch.uint8, generator=generator)
        size = {"height": options.result[0], "width": options.result[1]}
        self._inputs = {
            way: [{"image": image, **size, "file_name": f"/{self._stem(way)}.jpg", "meta": {"dataname": DATA}}]
            for way in WAYS
        }
        self._seconds: dict[str, float] = {}
        self._write_reasons(options.attributes)
        decoder, predictor = model.sem_seg_head.pixel_decoder, model.sem_seg_head.predictor
        self._watch(model, "get_text_classifier_image", "text")
        self._watch(model.backbone, "extract_features", "backbone")
        self._watch(decoder, "forward_features", "pixel decoder")
        self._watch(predictor, "forward", "decoder")

    @staticmethod
    def _stem(way: str) -> str:
        return way.replace(" ", "_")

    def _write_reasons(self, attributes: list[str]) -> None:
        """Four classes of two names each, with their attributes; for one of the ways the features as well."""
        import torch

        classes = [names for names in self._model.test_metadata[DATA].stuff_classes if names.count(",") == 1][:4]
        own = {names.split(",")[0]: {"reason1": "", "reason2": "", "reason3": attributes} for names in classes}
        folder = Path("reason_data/image_reason", FOLDER)
        folder.mkdir(parents=True)
        for way in WAYS:
            (folder / f"{self._stem(way)}.json").write_text(json.dumps({"reasoning": {"map_class_reason": own}}))
        with torch.no_grad():
            file = str((folder / f"{self._stem(WAYS[1])}.json").absolute())
            rows, templates, index = self._model.get_text_classifier_image(DATA, [file])
        features = Path("reason_data/image_reason_feat", FOLDER, self._model.clip_type)
        features.mkdir(parents=True)
        kept = {"text_classifier": rows.tolist(), "test_num_templates": templates, "class_index": index}
        (features / f"{self._stem(WAYS[1])}.json").write_text(json.dumps(kept))

    @property
    def sentences(self) -> int:
        """How many the image's classes have."""
        return len(self._model.test_class_names)

    def _now(self) -> float:
        import torch

        if self._device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def _watch(self, owner: Any, name: str, stage: str) -> None:
        method: Callable[..., Any] = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            start = self._now()
            result = method(*given, **named)
            self._seconds[stage] = self._now() - start
            return result

        setattr(owner, name, timed)

    def round(self) -> dict[str, dict[str, float]]:
        """One image each way: seconds by stage, and from the image to its label map ("all")."""
        import torch

        found: dict[str, dict[str, float]] = defaultdict(dict)
        for way in WAYS:
            self._seconds = {}
            start = self._now()
            with torch.no_grad():
                results = self._model(self._inputs[way])
            results[0]["sem_seg"].argmax(dim=0).cpu().numpy()  # as its evaluator does
            found[way] = {**self._seconds, "all": self._now() - start}
        return dict(found)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line, which reference.py writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", type=os.path.expanduser, help="the clone")
    parser.add_argument("--config", required=True, help="in the clone")
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--result", type=int, nargs=2, required=True, help="height and width of the label map")
    parser.add_argument("--attributes", nargs="+", required=True)
    return parser.parse_args(words)


def main() -> int:
    """Answer rounds until standard input ends; errors are answers as well."""
    options = parse_arguments()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the reference prints while it runs

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        import torch

        torch.set_num_threads(options.threads)
        compiled = prepare(Path(options.reference))
        reference = Reference(options, build(options.config, options.device))
        answer(
            sentences=reference.sentences,
            torch=torch.__version__,
            op="compiled" if compiled and options.device.startswith("cuda") else "PyTorch",
        )
        for _ in sys.stdin:
            answer(seconds=reference.round())
    except ModuleNotFoundError as error:
        traceback.print_exc()
        answer(missing=error.name or str(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        answer(error=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
