"""A web page to try segmentation with reasons: images, classes and reasons of one's own.

    python -m tools.demo                                        the toy model, which needs no weights
    python -m tools.demo --model base --weights pretrained/maftp_b.pth
    python -m tools.demo --reason-url http://127.0.0.1:8000/v1  "ask a model" through an OpenAI-compatible server

It opens http://127.0.0.1:7860 for this machine alone. --host 0.0.0.0 lets others in: there is no password, and every
visitor may upload images.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from maft import build, load_segmentor
from maft.errors import UserError, run_command, run_process
from maft.weights.seeding import SEEDED

from ..commands import INSTALLED, command, described
from ..segment.model import find_weights
from .asking import Model
from .samples import samples

UPLOAD = "20mb"
ALARM = "Seeded weights: random numbers stand in for the published ones. What this page shows MEANS NOTHING."


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog=command("demo"), description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", choices=tuple(build.MODELS), help="default: mini")
    parser.add_argument("--weights", metavar="FILE", help="of the model; default: the published file in pretrained/")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; default: this machine alone")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument("--reason-url", metavar="URL", help='of a server that "ask a model" asks, ending in /v1')
    parser.add_argument("--reason-model", default="", metavar="NAME", help="of its models; default: the only one")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(words)


def serve(options: argparse.Namespace) -> None:
    """Load the model, then serve the page until it is interrupted.

    Raises:
        UserError: gradio is missing, the model cannot be loaded, or the port is taken.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio as gr
    except ImportError as error:
        way_out = "pip install 'openseg-r[demo]'" if INSTALLED else "bash install.sh demo"
        raise UserError(f"the demo needs gradio, which is not installed: {way_out}") from error
    from . import app

    weights = find_weights(options.model, options.weights)
    segmentor = load_segmentor(options.model, weights, device=options.device)
    model = Model(options.reason_url.rstrip("/"), options.reason_model) if options.reason_url else None
    with tempfile.TemporaryDirectory(prefix="openseg-r-demo-") as folder:
        page = app.build(
            app.App(segmentor, model, Path(folder)),
            f"model: {options.model}",
            samples(options.model, Path(folder)),
            alarm=ALARM if weights == SEEDED else "",
        )
        page.queue(max_size=64)
        try:
            _, address, _ = page.launch(
                server_name=options.host,
                server_port=options.port,
                max_file_size=UPLOAD,
                allowed_paths=[folder],
                css=app.CSS,
                theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
                footer_links=[],
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise UserError(f"--port {options.port}: {error}; name another port") from error
        print(f"the demo is at {address} (Ctrl-C ends it)", flush=True)
        try:
            # Gradio's own waiting swallows the interrupt.
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse_arguments(words)
    return run_command(lambda: serve(options), debug=options.debug, interrupted="the demo has ended")


if __name__ == "__main__":
    run_process(main)
