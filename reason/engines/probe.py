"""How a server wants to be asked for an answer form, found out by asking.

There are two ways, the API's `response_format` and vLLM's `structured_outputs`, and servers that accept either and
silently answer as they like. So one question is sent whose answer no model would give of itself.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from typing import Any, Literal

from reason.asking.messages import EncodedImage, Sampling, Turn
from reason.errors import ReasonError

_log = logging.getLogger(__name__)

_SIDE = 56
_EXPECTED = {"form": "kept"}
_SCHEMA = {
    "type": "object",
    "properties": {"form": {"type": "string", "enum": ["kept"]}},
    "required": ["form"],
    "additionalProperties": False,
}


def probe_form(
    complete: Callable[[tuple[Turn, ...], dict[str, Any], Sampling, str], str],
    refusal: type[Exception],
    failure: type[Exception],
) -> Literal["response_format", "structured_outputs"]:
    """Find the way that a server obeys.

    Args:
        complete: sends turns, a schema and a sampling in one of the two ways, and returns the text of the answer; a
            ValueError says that there was none.
        refusal: the exception of an answer that is an error; it has `status_code`.
        failure: the exception of any other trouble.

    Raises:
        ReasonError: it obeys neither, takes no image, or does not answer.
    """
    turns = (Turn("system", "You look at images."), Turn("user", "Say good morning.", _grey_image()))
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=32, seed=None)
    told = "it answers in no such form"
    ways: tuple[Literal["response_format", "structured_outputs"], ...] = ("response_format", "structured_outputs")
    for way in ways:
        try:
            text = complete(turns, _SCHEMA, sampling, way)
        except refusal as error:
            told = " ".join(str(error).split())
            continue
        except failure as error:
            raise ReasonError(f"the server does not answer: {' '.join(str(error).split())}") from error
        except ValueError as error:
            told = str(error)
            continue
        try:
            kept = json.loads(text) == _EXPECTED
        except ValueError:
            # White space may have filled the answer up; the form was kept if there is nothing else wrong with it.
            kept = json.dumps(_EXPECTED, separators=(",", ":")).startswith("".join(text.split())) and text[:1] == "{"
        if kept:
            if text != json.dumps(_EXPECTED, separators=(",", ":")):
                _log.warning(
                    "the server lets the model write free white space, and some answers will be cut off for it; vLLM's "
                    "forbids it with --structured-outputs-config '%s'",
                    '{"backend": "guidance", "disable_any_whitespace": true}',
                )
            return way
    raise ReasonError(
        f"the server keeps to no answer form, or takes no images ({told}): take vLLM's own server, which does both, "
        "or --engine vllm, or ask for sentences (--answer-form text)"
    )


def _grey_image() -> EncodedImage:
    """A PNG of even grey, 56 x 56: four tokens."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128)).save(stream, "PNG")
    return EncodedImage(stream.getvalue(), "image/png", _SIDE, _SIDE, f"grey-{_SIDE}", 4)
