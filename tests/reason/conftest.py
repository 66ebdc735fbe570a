"""What the tests of the reasoning share: models, images, and two real engines that are started once."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from reason.engines.vllm import VllmEngine

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: seconds instead of half a minute
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several engines share the cores
    "VLLM_CPU_INT4_W4A8": "0",  # AWQ then computes what the weights stand for
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
CONTEXT = 4096
MAX_PIXELS = 81 * 28 * 28
"""What the trained model sees of an image."""
PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that kill the shared server come last, so that it need not be started again for others.

    Among them, those that start it again come first. Tests that open and close a vLLM of their own in this process come
    after all others: the shared one does not survive that.
    """

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("own_vllm"):
            return 3
        marker = item.get_closest_marker("kills_server")
        if marker is None:
            return 0
        return 1 if marker.kwargs.get("starts_it_again") else 2

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """The variables that make vLLM small and quiet, for this process and those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def tiny_qwen() -> ModuleType:
    """The module that builds the tiny model (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("tiny_qwen", HERE / "tiny_qwen.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_model(environment: None, tiny_qwen: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Qwen2.5-VL with random weights, for what depends on their sizes alone."""
    folder: Path = tiny_qwen.build(tmp_path_factory.mktemp("llm") / "tiny")
    return folder


@pytest.fixture(scope="session")
def tiny_awq(tiny_model: Path, tiny_qwen: ModuleType) -> tuple[Path, Path]:
    """Folders of the tiny model's AWQ form, and of what its rounded weights stand for, in bfloat16."""
    folder, meant = tiny_model.with_name("tiny-AWQ"), tiny_model.with_name("tiny-rounded")
    tiny_qwen.build_awq(folder, tiny_model, dequantised=meant)
    return folder, meant


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with eight photographs, JPEG, 256 pixels the longer side."""
    import skimage
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for name in PHOTOGRAPHS:
        with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
            image.thumbnail((256, 256))
            image.convert("RGB").save(folder / f"{Path(name).stem}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def mini_model(environment: None) -> Path:
    """Folder of the model that was trained to reason about the mini world, as it ships."""
    return HERE.parents[1] / "tools" / "mini" / "weights" / "lmm"


def draw(folder: Path, seeds: Iterable[int]) -> Path:
    """Images like those of validation, of other seeds: scene_<seed>.png."""
    from PIL import Image

    from tools.mini.scenes import dev_scene

    for seed in seeds:
        Image.fromarray(dev_scene(seed).image).save(folder / f"scene_{seed}.png")
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with twelve drawn images, which show kinds that no image of the model's training shows."""
    return draw(tmp_path_factory.mktemp("drawn"), range(1000, 1012))


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with 64 drawn images."""
    return draw(tmp_path_factory.mktemp("many"), range(2000, 2064))


@pytest.fixture(scope="session")
def judged() -> Callable[[Iterable[Path]], dict[str, float]]:
    """How good the results about drawn images are: "recall", "precision", "attributes", …, and errors by step."""
    from reason.triplets import load_image
    from tools.mini.lmm.steps import figures, judge
    from tools.mini.scenes import dev_scene

    def count(results: Iterable[Path]) -> dict[str, float]:
        """Args: files scene_<seed>.json, each named like its image."""
        found = []
        for path in results:
            scene, triplet = dev_scene(int(path.stem.removeprefix("scene_"))), load_image(path)
            found.append((scene, triplet, judge(scene, triplet)))
        return figures(found)

    return count


@pytest.fixture(scope="session")
def mini_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation vocabulary of the mini world as a file."""
    from reason.vocabulary import dump_vocabulary
    from tools.mini.world import vocabulary

    path = tmp_path_factory.mktemp("classes") / "mini.json"
    dump_vocabulary(vocabulary("val"), path)
    return path


@pytest.fixture(scope="session")
def vllm_engine(mini_model: Path) -> Iterator[VllmEngine]:
    """vLLM with the trained model, in this process."""
    from reason.engines.interface import EngineOptions
    from reason.engines.vllm import VllmEngine

    engine = VllmEngine(
        EngineOptions(model=str(mini_model), max_model_len=CONTEXT, max_pixels=MAX_PIXELS, concurrency=4)
    )
    yield engine
    engine.close()


class Server:
    """vLLM's own server with the trained model, started when it is needed and again after it was killed."""

    def __init__(self, model: Path, log: Path) -> None:
        self._model, self._log = model, log
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def ensure(self) -> str:
        """The address of the running server."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        return self.url

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--model", str(self._model), "--served-model-name", "mini"]
        command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", "4", "--block-size", "32", "--enforce-eager"]
        command += ["--enable-prompt-tokens-details", "--limit-mm-per-prompt", '{"image": 1, "video": 0}']
        command += ["--structured-outputs-config", '{"backend": "guidance", "disable_any_whitespace": true}']
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 400
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                return
            except OSError:
                ended = self.process.poll() is not None
                assert not ended and time.monotonic() < deadline, self._log.read_text(errors="replace")[-4000:]
                time.sleep(0.5)

    def kill(self) -> None:
        """End it and its engine's process at once, as a machine that fails would."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def server(mini_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shared server; a test that kills it is marked kills_server."""
    one = Server(mini_model, tmp_path_factory.mktemp("server") / "log")
    yield one
    one.kill()


@pytest.fixture
def vllm_server(server: Server) -> str:
    """Address of vLLM's own server, which serves the trained model as "mini"."""
    return server.ensure()
