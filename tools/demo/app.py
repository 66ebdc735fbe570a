"""The page: what stands where, and what happens when something changes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
        folder: where files to be downloaded are written; the caller empties it.
    """

    def __init__(self, segmentor: Segmentor, model: Model | None, folder: Path) -> None:
        self.segmentor, self.model, self.folder = segmentor, model, folder

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
        return gr.File(write_files(session.result, self._new_folder()), visible=True)

    def save_table(self, rows: list[Row]) -> str:
        """The table as a reason file of an image."""
        path = self._new_folder() / "reasons.json"
        dump_image(as_triplet(to_reasons(rows)), path)
        return str(path)

    def load_table(self, file: str | None) -> Any:
        """The table from a reason file, generic or of an image."""
        return gr.skip() if file is None else to_rows(load(file))

    def ask(self, file: str | None, classes: str, session: Session) -> Iterator[tuple[Any, Any]]:
        """What the model says, step by step; in the end the table."""
        assert self.model is not None
        try:
            seen = self._seen(file, session)
            for asked in self.model.ask(Path(seen.name or ""), read_vocabulary_text(classes)):
                yield asked.text, gr.skip() if asked.reasons is None else to_rows(asked.reasons)
        except USER_ERRORS as error:
            raise gr.Error(one_line(error), print_exception=False) from error

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def _seen(self, file: str | None, session: Session) -> Seen:
        """The image, looked at once."""
        if session.seen is None or session.file != file:
            session.seen, session.file = look(self.segmentor, file), file
        return session.seen


def _annotated(result: Result) -> Any:
    found = shown(result)
    value: Any = (found.image, found.regions)
    return gr.AnnotatedImage(value, color_map=found.colours)


def _file_of(upload: Any) -> str | None:
    """An upload as the file that it is: the library's own reader opens it, and says what is wrong with it."""
    return None if upload is None else str(upload.path)


@dataclass(frozen=True)
class Inputs:
    """What a user changes, on the left."""

    image: gr.Image
    classes: gr.Textbox
    kind: gr.Radio
    table: gr.Dataframe
    upload: gr.UploadButton
    save: gr.DownloadButton
    ask: gr.Button
    answers: gr.Markdown
    run: gr.Button

    @classmethod
    def placed(cls, first: Sample | None, *, asks: bool) -> Inputs:
        """The components, into the column that is open.

        Args:
            first: what they begin with.
            asks: whether there is a model to be asked.
        """
        image = gr.Image(
            str(first.image) if first else None,
            type="filepath",
            sources=["upload", "clipboard"],
            label="image",
            elem_id="image",
        )
        # Gradio's own would open the file, and say nothing on the page where it cannot.
        image.preprocess = _file_of  # type: ignore[assignment, method-assign]
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
        ask = gr.Button("ask a model", elem_id="ask", visible=asks)
        answers = gr.Markdown(elem_id="answers", visible=asks)
        run = gr.Button("segment", variant="primary", elem_id="run")
        return cls(image, classes, kind, table, upload, save, ask, answers, run)


@dataclass(frozen=True)
class Outputs:
    """What is shown, on the right."""

    plain: gr.AnnotatedImage
    reasoned: gr.AnnotatedImage
    choice: gr.Dropdown
    support: gr.Image
    cards: gr.HTML
    download: gr.Button
    files: gr.File

    @classmethod
    def placed(cls) -> Outputs:
        """The components, into the column that is open."""
        with gr.Row():
            plain = gr.AnnotatedImage(label="names only", elem_id="plain")
            reasoned = gr.AnnotatedImage(label="with reasons", elem_id="reasoned")
        with gr.Row():
            with gr.Column():
                choice = gr.Dropdown([], label="where the image supports an attribute", elem_id="attribute")
                support_map = gr.Image(label="blue: least, red: most", interactive=False, elem_id="support")
            shown_cards = gr.HTML(elem_id="cards")
        download = gr.Button("label map, overlay and JSON", size="sm", elem_id="download")
        files = gr.File(label="files", file_count="multiple", interactive=False, visible=False, elem_id="files")
        return cls(plain, reasoned, choice, support_map, shown_cards, download, files)


def build(app: App, title: str, samples: list[Sample], alarm: str = "") -> gr.Blocks:
    """The page.

    Args:
        app: the functions behind it.
        title: says which model it is.
        samples: to begin with.
        alarm: what must stand above everything; "" for nothing.
    """
    with gr.Blocks(title="OpenSeg-R", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(f"# OpenSeg-R\n{title}" + (f"\n\n**{alarm}**" if alarm else ""))
        session = gr.State(Session())
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                left = Inputs.placed(samples[0] if samples else None, asks=app.model is not None)
            with gr.Column(scale=6, min_width=320):
                right = Outputs.placed()
        if samples:
            gr.Examples(
                [[str(one.image), one.classes, one.rows] for one in samples],
                [left.image, left.classes, left.table],
                label="examples",
                cache_examples=False,
            )
        _connect(app, page, left, right, session)
    return page


def _connect(app: App, page: gr.Blocks, left: Inputs, right: Outputs, session: gr.State) -> None:
    """Say what happens when something changes."""
    limits: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": NETWORK}
    edits = [left.kind.change, left.table.change, left.classes.submit, left.classes.blur]
    gr.on(
        [left.run.click, *edits, page.load],
        told(app.run),
        [left.image, left.classes, left.kind, left.table, session],
        [right.plain, right.reasoned, right.cards, right.choice, session],
        trigger_mode="always_last",
        **limits,
    )
    right.choice.change(told(app.attribute_map), [right.choice, session], right.support, **limits)
    right.download.click(told(app.download), session, right.files)
    left.save.click(told(app.save_table), left.table, left.save)
    left.upload.upload(told(app.load_table), left.upload, left.table)
    if app.model:
        left.ask.click(app.ask, [left.image, left.classes, session], [left.answers, left.table], **limits)
