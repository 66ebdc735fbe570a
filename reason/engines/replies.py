"""What a server's answer of status 200 holds, whatever it holds."""

from __future__ import annotations

from typing import Any

from reason.asking.messages import Answer

_SHOWN = 120
"""Characters of an unusable answer in a message."""


def read_answer(key: str, response: Any) -> Answer:
    """The answer in a response of status 200, whose fields the client does not check.

    Raises:
        ValueError: there is none in it; says what there is.
    """
    choices = getattr(response, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"the server's answer holds no choice but {_short(response)}")
    content = getattr(getattr(choices[0], "message", None), "content", None)
    if isinstance(content, list):  # parts, as some servers write them
        parts = [part.get("text") if isinstance(part, dict) else getattr(part, "text", None) for part in content]
        content = "".join(part for part in parts if isinstance(part, str)) or None
    if not isinstance(content, str):
        raise ValueError(f"the server's answer holds no text but {_short(choices[0])}")
    usage = getattr(response, "usage", None)
    cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
    return Answer(
        key=key,
        text=content,
        finish_reason=str(getattr(choices[0], "finish_reason", None) or "unknown"),
        prompt_tokens=_count(getattr(usage, "prompt_tokens", None)) or 0,
        cached_tokens=_count(cached),
        completion_tokens=_count(getattr(usage, "completion_tokens", None)) or 0,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _short(value: Any) -> str:
    """What came, for a message."""
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…") if text else "nothing"
