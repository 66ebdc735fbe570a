"""The page: what stands where, and what happens when something changes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from maft import Result, Seen, Segmentor
from maft.errors import USER_ERRORS, one_line
from reason.triplets import dump_image

from .asking import Model
from .maps import coloured, support
from .samples import Sample
from .session import (
    KINDS,
    attributes,
    cards,
    look,
    read_vocabulary_text,
    segment,
    shown,
    write_files,
)
from .table import HEADERS, Row, as_triplet, load, to_reasons, to_rows

Returned = TypeVar("Returned")
NETWORK = "network"
"""Events of one name wait for each other: the network serves one user after the other."""
CSS = """
.reason-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .8rem; }
.reason-card { border: 1px solid var(--border-color-primary); border-radius: .5rem; padding: .6rem .8rem;
  overflow-wrap: anywhere; }
.reason-card h4 { margin: 0 0 .2rem; } .reason-card small { font-weight: 400; opacity: .7; }
.reason-card p { margin: .1rem 0; opacity: .8; } .reason-card ul { margin: .2rem 0 0 1rem; list-style: disc; }
"""

class ImageFile(gr.Image):
    """An uploaded image as the file that it is: the library's own reader opens it, and says what is wrong with it."""

    is_template = True  # shown as gr.Image

    def preprocess(self, payload: Any) -> str | None:
        """The file's path; Gradio would open it here, and say nothing on the page where it cannot."""
        return None if payload is None else str(payload.path)
    from collections.abc import Callable, Sequence
    from typing import TYPE_CHECKING, Any, Literal

    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class Session:
    """What one user has open: the image that was looked at, and the last result; kept by Gradio per browser tab."""

    def __init__(self) -> None:
        self.file: str | None = None
        self.seen: Seen | None = None
        self.result: Result | None = None

    def __deepcopy__(self, memo: object) -> Session:
        """A new tab begins with nothing."""
        return Session()

def told(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """What the user did wrong becomes a message on the page, and nothing else happens."""

    @wraps(function)
    def call(*arguments: Any) -> Returned:
        try:
            return function(*arguments)
        except USER_ERRORS as error:
            raise gr.Error(one_line(error), print_exception=False) from error

    return call

class App:
    """The functions behind the page.

    Args:
        segmentor: of all users.
        model: what "Ask a model" asks; None without.
    """

    def __init__(self, segmentor: Segmentor, model: Model | None) -> None:
        self.segmentor, self.model = segmentor, model

    def run(self, file: str | None, classes: str, kind: str, rows: list[Row], session: Session) -> tuple[Any, ...]:
        """Both results, cards, the list of attributes, and the session."""
        seen = self._seen(file, session)
        vocabulary = read_vocabulary_text(classes)
        plain = segment(seen, vocabulary, "names only", {})
        result = plain if KINDS[kind] == "names only" else segment(seen, vocabulary, KINDS[kind], to_reasons(rows))
        session.result = result
        choices = attributes(result)
        return (
            _annotated(plain),
            _annotated(result),
            cards(result),
            gr.Dropdown(choices=choices, value=choices[0] if choices else None),
            session,
        )

    def attribute_map(self, choice: str | None, session: Session) -> Any:
        """The image coloured by its support for "CLASS: ATTRIBUTE"."""
        if not choice or session.seen is None:
            return None
        name, _, attribute = choice.partition(": ")
        return coloured(session.seen.image, support(session.seen, name, attribute))

    def download(self, session: Session) -> Any:
        """Files of the last result."""
        if session.result is None:
            raise gr.Error("no result yet", print_exception=False)
        return gr.File(write_files(session.result, Path(tempfile.mkdtemp(prefix="openseg-r-"))), visible=True)

    def save_table(self, rows: list[Row]) -> str:
        """The table as a reason file of an image."""
        path = Path(tempfile.mkdtemp(prefix="openseg-r-"), "reasons.json")
        dump_image(as_triplet(to_reasons(rows)), path)
        return str(path)

    def load_table(self, file: str | None) -> Any:
        """The table from a reason file, generic or of an image."""
        return gr.skip() if file is None else to_rows(load(file))

    def ask(self, file: str | None, classes: str, session: Session) -> Iterator[tuple[Any, Any]]:
        """What the model says, step by step; in the end the table."""
        assert self.model is not None
        seen = self._seen(file, session)
        try:
            for asked in self.model.ask(Path(seen.name or ""), read_vocabulary_text(classes)):
                yield asked.text, gr.skip() if asked.reasons is None else to_rows(asked.reasons)
        except USER_ERRORS as error:
            raise gr.Error(one_line(error), print_exception=False) from error

    def _seen(self, file: str | None, session: Session) -> Seen:
        """The image, looked at once."""
        if session.seen is None or session.file != file:
            session.seen, session.file = look(self.segmentor, file), file
        return session.seen

def _annotated(result: Result) -> Any:
    found = shown(result)
    value: Any = (found.image, found.regions)
    return gr.AnnotatedImage(value, color_map=found.colours)

def build(segmentor: Segmentor, title: str, samples: list[Sample], model: Model | None, alarm: str = "") -> gr.Blocks:
    """The page.

    Args:
        segmentor: of all users.
        title: says which model it is.
        samples: to begin with.
        model: what "Ask a model" asks; None leaves that out.
        alarm: what must stand above everything; "" for nothing.
    """
    app = App(segmentor, model)
    first = samples[0] if samples else None
    with gr.Blocks(title="OpenSeg-R", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(f"# OpenSeg-R\n{title}" + (f"\n\n**{alarm}**" if alarm else ""))
        session = gr.State(Session())
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                image = ImageFile(
                    str(first.image) if first else None,
                    type="filepath",
                    sources=["upload", "clipboard"],
                    label="image",
                    elem_id="image",
                )
                classes = gr.Textbox(
                    first.classes if first else "",
                    lines=5,
                    max_lines=12,
                    label="classes",
                    info="one a line, synonyms after commas; or the name of a benchmark, such as ade150",
                    elem_id="classes",
                )
                kind = gr.Radio(list(KINDS), value=list(KINDS)[2], label="reasons", elem_id="kind")
                table = gr.Dataframe(
                    first.rows if first else [],
                    headers=list(HEADERS),
                    type="array",
                    interactive=True,
                    wrap=True,
                    column_widths=["18%", "17%", "20%", "45%"],
                    label="reasons, to be edited",
                    elem_id="table",
                )
                with gr.Row():
                    upload = gr.UploadButton("load reasons", file_types=[".json"], size="sm")
                    save = gr.DownloadButton("save reasons", size="sm")
                if model:
                    ask = gr.Button("ask a model", elem_id="ask")
                    answers = gr.Markdown(elem_id="answers")
                run = gr.Button("segment", variant="primary", elem_id="run")
            with gr.Column(scale=6, min_width=320):
                with gr.Row():
                    plain = gr.AnnotatedImage(label="names only", elem_id="plain")
                    reasoned = gr.AnnotatedImage(label="with reasons", elem_id="reasoned")
                with gr.Row():
                    with gr.Column():
                        choice = gr.Dropdown([], label="where the image supports an attribute", elem_id="attribute")
                        support_map = gr.Image(label="blue: least, red: most", interactive=False, elem_id="support")
                    card = gr.HTML(elem_id="cards")
                download = gr.Button("label map, overlay and JSON", size="sm", elem_id="download")
                files = gr.File(label="files", file_count="multiple", interactive=False, visible=False, elem_id="files")
        if samples:
            gr.Examples(
                [[str(one.image), one.classes, one.rows] for one in samples],
                [image, classes, table],
                label="examples",
                cache_examples=False,
            )
        asked_for = [image, classes, kind, table, session]
        given = [plain, reasoned, card, choice, session]
        limits: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": NETWORK}
        gr.on(
            [run.click, kind.change, table.change, classes.submit, classes.blur, page.load],
            told(app.run),
            asked_for,
            given,
            trigger_mode="always_last",
            **limits,
        )
        choice.change(told(app.attribute_map), [choice, session], support_map, **limits)
        download.click(told(app.download), session, files)
        save.click(told(app.save_table), table, save)
        upload.upload(told(app.load_table), upload, table)
        if model:
            ask.click(app.ask, [image, classes, session], [answers, table], **limits)
    return page
