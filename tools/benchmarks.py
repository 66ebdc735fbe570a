"""The benchmarks: which data set, vocabulary, reasons, configuration and weights belong together, and what is missing.

The table is data; `plan` finds out what of it lies on this machine and writes down the keys that train_net.py gets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maft.data import dataset_status, datasets_root
from maft.weights.seeding import SEEDED
from reason.shipped import NOT_THE_PAPERS, shipped_file

from .assets import checkpoint_problem, count_files

GENERIC_FOLDERS = ("reason_data/general_reason", "reason_data/generic_reason")
GENERIC_ENDINGS = ("_class_reason.json", "_class_des.json")
IMAGE_REASON_FOLDER = "reason_data/image_reason"
IMAGE_REASON_MODEL = "Qwen2.5-VL-72B-Instruct-AWQ"
"""The model whose published reasons the results of the paper are made with: the folder that is looked at first."""

REASONS_HINT = "reason_data/README.md says where published reasons are and what such a file looks like"
MINI = "mini"
MINI_WEIGHTS, MINI_OUTPUT = "tools/mini/weights/mini.safetensors", "out/mini"
BY_NAME_ONLY = (MINI,)
"""What ships with the repository: runs when it is named, and prepares itself."""

GONE = {
    "photos": "bash eval_reason_base.sh mini runs the whole way and measures it; python -m tools.examples writes the "
    "photographs, and says how to segment them"
}
"""Benchmarks of former versions, and what has taken their place."""


@dataclass(frozen=True)
class Benchmark:
    """One data set under one vocabulary.

    Attributes:
        name: how the user calls it, and the name of its vocabulary where that is a published one.
        title: as in the papers' tables.
        dataset: registered data set.
    """

    name: str
    title: str
    dataset: str


@dataclass(frozen=True)
class Suite:
    """A model, and the benchmarks that it is evaluated on.

    Attributes:
        name: base, large or pano; with "sed-" before it where SED segments.
        config: configuration with reasons.
        config_plain: configuration of the plain network, class names only.
        weights: the published checkpoint.
        output: folder of the results with reasons, one folder a benchmark inside.
        output_plain: the same for the plain network.
        benchmarks: by the user's name, in the order in which they run; those of `BY_NAME_ONLY` run only when named.
    """

    name: str
    config: str
    config_plain: str
    weights: str
    output: str
    output_plain: str
    benchmarks: tuple[Benchmark, ...]

    @property
    def script(self) -> str:
        """The command that evaluates it."""
        size = self.name.removeprefix("sed-")
        return f"eval_reason_{size}.sh" + (" --model sed" if size != self.name else "")

    @property
    def default(self) -> tuple[Benchmark, ...]:
        """What runs when nothing is named."""
        return tuple(benchmark for benchmark in self.benchmarks if benchmark.name not in BY_NAME_ONLY)


_MINI = Benchmark(MINI, "a drawn world, semantic and panoptic, with every kind of reasons", "mini_val_panoptic")
_SEMANTIC = (
    Benchmark("voc20", "PAS-20", "openvocab_pascal20_sem_seg_val"),
    Benchmark("pc59", "PC-59", "openvocab_pascal_ctx59_sem_seg_val"),
    Benchmark("ade150", "A-150", "openvocab_ade20k_sem_seg_val"),
    Benchmark("pc459", "PC-459", "openvocab_pascal_ctx459_sem_seg_val"),
    Benchmark("ade847", "A-847", "openvocab_ade20k_full_sem_seg_val"),
)
_PANOPTIC = (
    Benchmark("ade150", "ADE20K panoptic", "openvocab_ade20k_panoptic_val"),
    _MINI,
)

SUITES: Mapping[str, Suite] = {
    "base": Suite(
        "base",
        "configs/semantic/eval_base_reason.yaml",
        "configs/semantic/eval_base.yaml",
        "pretrained/maftp_b.pth",
        "out/semantic/evaluation_base_reason",
        "out/semantic/evaluation_base",
        (*_SEMANTIC, _MINI),
    ),
    "large": Suite(
        "large",
        "configs/semantic/eval_large_reason.yaml",
        "configs/semantic/eval_large.yaml",
        "pretrained/maftp_l.pth",
        "out/semantic/evaluation_large_reason",
        "out/semantic/evaluation_large",
        _SEMANTIC,
    ),
    "pano": Suite(
        "pano",
        "configs/panoptic/eval_pano_reason.yaml",
        "configs/panoptic/eval.yaml",
        "pretrained/maftp_l_pano.pth",
        "out/panoptic/evaluation_large_reason",
        "out/panoptic/evaluation_large",
        _PANOPTIC,
    ),
    **{
        f"sed-{size}": Suite(
            f"sed-{size}",
            f"configs/sed/eval_{size}_reason.yaml",
            f"configs/sed/eval_{size}.yaml",
            f"pretrained/sed_{size[0]}.pth",
            f"out/sed/evaluation_{size}_reason",
            f"out/sed/evaluation_{size}",
            _SEMANTIC,
        )
        for size in ("base", "large")
    },
}


@dataclass(frozen=True)
class Missing:
    """Something that a benchmark asks for and this machine lacks.

    Attributes:
        what: the thing, with its path.
        way_out: how to get it.
        needed: the benchmark cannot run without it; otherwise something stands in, and the run says so.
    """

    what: str
    way_out: str
    needed: bool = True


@dataclass(frozen=True)
class Plan:
    """One benchmark of one suite, ready to run or not.

    Attributes:
        benchmark: the table's entry.
        config: the configuration file.
        output: OUTPUT_DIR.
        keys: the KEY VALUE pairs for train_net.py, the user's own last.
        missing: what is not there; needed things first.
    """

    benchmark: Benchmark
    config: str
    output: Path
    keys: Mapping[str, str]
    missing: tuple[Missing, ...]

    @property
    def can_run(self) -> bool:
        """Whether nothing that is needed is missing."""
        return not any(entry.needed for entry in self.missing)

    @property
    def results_file(self) -> Path:
        """Where the evaluation writes its results."""
        return self.output / "inference" / self.benchmark.dataset / "results.json"


def plan(suite: Suite, benchmark: Benchmark, *, names_only: bool, overrides: Mapping[str, str]) -> Plan:
    """Find what a benchmark needs and write down its keys.

    Args:
        suite: the model.
        benchmark: one of `suite.benchmarks`.
        names_only: plain MAFT+, which needs no reasons.
        overrides: the user's KEY VALUE pairs; they win, and what they name is looked for in place of the default.
    """
    if benchmark.name == MINI:
        return _mini_plan(benchmark, names_only=names_only, overrides=overrides)
    config = suite.config_plain if names_only else suite.config
    output = Path(suite.output_plain if names_only else suite.output) / benchmark.name
    keys = {"DATASETS.TEST": f"('{benchmark.dataset}',)", "OUTPUT_DIR": str(output)}
    if not names_only:
        keys |= reason_keys(benchmark.name)
    keys |= overrides
    missing = [*_missing_weights(keys.get("MODEL.WEIGHTS", suite.weights)), *_missing_dataset(benchmark)]
    if not names_only:
        missing += _missing_reasons(keys)
    missing.sort(key=lambda entry: not entry.needed)
    return Plan(benchmark, config, Path(keys["OUTPUT_DIR"]), keys, tuple(missing))


def _mini_plan(benchmark: Benchmark, *, names_only: bool, overrides: Mapping[str, str]) -> Plan:
    """The drawn world brings weights, images and reasons along; `tools.mini` runs it, with names only and without."""
    missing = []
    weights = overrides.get("MODEL.WEIGHTS", MINI_WEIGHTS)
    if weights != SEEDED and not Path(weights).is_file():
        way_out = f"the repository ships {MINI_WEIGHTS}; docs/mini.md says how they are trained"
        missing.append(Missing(f"weights {weights}: no such file", way_out))
    if names_only:
        way_out = "leave it out: names only is one of the rows of mini's table"
        missing.append(Missing("mini does not take --names-only", way_out))
    output = Path(overrides.get("OUTPUT_DIR", MINI_OUTPUT))
    keys = {key: value for key, value in overrides.items() if key != "OUTPUT_DIR"}
    return Plan(benchmark, "configs/mini/eval_reason.yaml", output, keys, tuple(missing))


def reason_keys(vocabulary: str) -> dict[str, str]:
    """The keys that name a vocabulary's reasons: the files that are there, else the shipped ones for generic reasons,
    else those that the reference names."""
    return {
        "MODEL.TEST_CLASS_REASON_JSON": str(generic_file(vocabulary) or generic_candidates(vocabulary)[0]),
        "MODEL.REASON_DIR": str(image_reason_folder(vocabulary) or Path(IMAGE_REASON_FOLDER, IMAGE_REASON_MODEL)),
        "MODEL.REASON_DATA": vocabulary,
    }


def generic_candidates(vocabulary: str) -> list[Path]:
    """Where a vocabulary's generic reasons may lie; two file names are in circulation, and two of the folder's."""
    return [Path(folder, vocabulary + ending) for folder in GENERIC_FOLDERS for ending in GENERIC_ENDINGS]


def generic_file(vocabulary: str) -> Path | None:
    """The first of `generic_candidates` that is there; where none is, what is shipped; None where nothing is."""
    own = next((path for path in generic_candidates(vocabulary) if path.is_file()), None)
    return own or shipped_file(vocabulary)


def image_reason_folders() -> Iterator[Path]:
    """Folders that may be MODEL.REASON_DIR: of the paper's model, without a model level, of other models."""
    for root in (Path(), datasets_root()):
        folder = root / IMAGE_REASON_FOLDER
        yield folder / IMAGE_REASON_MODEL
        yield folder
        if folder.is_dir():
            models = (entry for entry in folder.iterdir() if entry.is_dir() and entry.name != IMAGE_REASON_MODEL)
            yield from sorted(models)


def image_reason_folder(vocabulary: str) -> Path | None:
    """The first of `image_reason_folders` that has files for a vocabulary."""
    return next((folder for folder in image_reason_folders() if count_files(folder / vocabulary, ".json")), None)


def parse_overrides(words: Sequence[str]) -> dict[str, str]:
    """KEY VALUE pairs from a command line.

    Raises:
        ValueError: an odd number of words.
    """
    if len(words) % 2:
        raise ValueError(f"KEY VALUE pairs expected, but {words[-1]!r} stands alone")
    return dict(zip(words[::2], words[1::2], strict=True))


def _missing_weights(weights: str) -> Iterator[Missing]:
    problem = None if weights == SEEDED else checkpoint_problem(weights)
    if problem:
        yield Missing(f"weights {weights}: {problem}", "pretrained/README.md says where the published files are")


def _missing_dataset(benchmark: Benchmark) -> Iterator[Missing]:
    status = dataset_status(benchmark.dataset)
    if not status.present:
        yield Missing(f"data set {benchmark.dataset}: {'; '.join(status.looked_at)}", status.hint)


def _missing_reasons(keys: Mapping[str, str]) -> Iterator[Missing]:
    generic, vocabulary = Path(keys["MODEL.TEST_CLASS_REASON_JSON"]), keys["MODEL.REASON_DATA"]
    if not generic.is_file():
        yield Missing(f"generic reasons {generic}: no such file", f"{REASONS_HINT}; or evaluate with --names-only")
    elif generic == shipped_file(vocabulary):
        own = generic_candidates(vocabulary)[0]
        what = f"generic reasons {own}: no such file; {generic} stands in ({NOT_THE_PAPERS})"
        yield Missing(what, REASONS_HINT, needed=False)
    folder = Path(keys["MODEL.REASON_DIR"], vocabulary)
    if not any(count_files(root / folder, ".json") for root in (Path(), datasets_root())):
        yield Missing(
            f"image-specific reasons {folder}: none; generic ones stand in for every image", REASONS_HINT, needed=False
        )
