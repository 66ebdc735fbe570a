"""The one base of every HTML page of the project: `base.html` and `page.css`, by which all reports look alike.

A report's own templates lie in its own folder and begin with `{% extends "base.html" %}`; they fill the blocks `head`
(above the content), `content`, and `style` (rules beside the common ones). A page needs no other file: its style, its
images (`data_uri`) and its script stand in it. Everything that a template is given is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import markupsafe

FOLDER = Path(__file__).resolve().parent


def render(template: str, *, folder: Path | None = None, script: str = "", **values: Any) -> str:
    """A page.

    Args:
        template: name of the template file.
        folder: where it lies; default: this package. The common files are found from any folder.
        script: name of a script file beside the template, which the page may run; no other script runs in it.
        values: what the template asks for; one that is missing is an error. `title` is asked for by the base.

    Raises:
        jinja2.TemplateError: a template or a value is missing, or a template is malformed.
    """
    import jinja2

    loader = jinja2.FileSystemLoader([folder or FOLDER, FOLDER], encoding="utf-8")
    pages = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters["breakable"] = breakable
    source = loader.get_source(pages, script)[0] if script else ""
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() if script else ""
    return pages.get_template(template).render(script_source=source, script_digest=digest, **values)


def breakable(text: str) -> markupsafe.Markup:
    """A path or a name as HTML, escaped, that a narrow screen breaks behind "/" and "_" and not inside a word."""
    import markupsafe

    return markupsafe.Markup("<wbr>").join(re.split(r"(?<=[/_])(?=\w)", text))


def data_uri(data: bytes, mime: str) -> str:
    """The content of a file as an address that a page can hold."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
