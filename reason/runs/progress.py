"""How far the work is: counts, rates, and one line that shows them."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from reason.asking.messages import Answer

_TERMINAL_SECONDS = 0.5
_LOG_SECONDS = 30.0


def several(count: int, unit: str) -> str:
    """Such as "1 image", "2 images", "3 classes"."""
    return f"{count} {unit if count == 1 else plural(unit)}"


def plural(unit: str) -> str:
    """Of the few things that are counted here."""
    return f"{unit}es" if unit.endswith("s") else f"{unit}s"


@dataclass
class Usage:
    """Tokens of all answers so far.

    Attributes:
        requests: answers, also those that could not be used.
        prompt, completion: tokens.
        cached: prompt tokens that came from the prefix cache, of those answers that tell.
        telling: prompt tokens of those answers.
    """

    requests: int = 0
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    telling: int = 0

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.requests += 1
        self.prompt += answer.prompt_tokens
        self.completion += answer.completion_tokens
        if answer.cached_tokens is not None:
            self.cached += answer.cached_tokens
            self.telling += answer.prompt_tokens

    @property
    def cached_share(self) -> float | None:
        """Part of the prompt tokens that was not computed again, in [0, 1]; None where no answer tells."""
        return self.cached / self.telling if self.telling else None


class Bar:
    """How far something is, on standard error: a bar on a terminal, a whole line now and then in a log file.

    tqdm is imported with the first bar, since it would be a third of what `--help` takes.

    Args:
        total: things to do.
        unit: what one of them is called.
        quiet: show nothing.
        pause: seconds between two lines of a log.
    """

    def __init__(self, total: int, unit: str, *, quiet: bool = False, pause: float = _LOG_SECONDS) -> None:
        self.count = 0
        self._total, self._unit, self._pause = total, unit, pause
        self._note = ""
        self._begun = self._shown = time.monotonic()
        self._lines = not quiet and not sys.stderr.isatty()
        self._bar: Any = None
        if not quiet and not self._lines:
            from tqdm import tqdm

            unit_of_bar = f" {plural(unit)}"
            self._bar = tqdm(total=total, unit=unit_of_bar, mininterval=_TERMINAL_SECONDS, dynamic_ncols=True)

    def move_to(self, count: int, note: str = "") -> None:
        """So many are done; `note` stands behind the numbers."""
        step, self.count, self._note = count - self.count, count, note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(step)
        elif self._lines and time.monotonic() - self._shown >= self._pause:
            self._line()

    def close(self) -> None:
        """Finish the bar, or write the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._lines:
            self._line()
            self._lines = False

    def _line(self) -> None:
        self._shown = time.monotonic()
        seconds = max(self._shown - self._begun, 1e-9)
        parts = [f"{self.count}/{several(self._total, self._unit)}, {60 * self.count / seconds:.1f} a minute"]
        if 0 < self.count < self._total:
            parts.append(f"{duration(seconds * (self._total - self.count) / self.count)} left")
        sys.stderr.write(", ".join([*parts, self._note] if self._note else parts) + "\n")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Such as "2 h 5 min", "3 min", "less than a minute"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


@dataclass
class Progress:
    """A bar, and the numbers behind it.

    Args:
        total: things to do.
        unit: what one of them is called.
        quiet: count, but show nothing.
    """

    total: int
    unit: str = "image"
    quiet: bool = False
    usage: Usage = field(default_factory=Usage)
    done: int = 0
    failed: int = 0
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._bar = Bar(self.total, self.unit, quiet=self.quiet)

    def answered(self, answer: Answer) -> None:
        """Count an answer of the engine."""
        self.usage.add(answer)

    def finished(self, *, failed: bool = False) -> None:
        """One more is done, or has failed."""
        self.done += not failed
        self.failed += failed
        self._bar.move_to(self._bar.count + 1, self.rates())

    def elsewhere(self) -> None:
        """One more was finished by another process."""
        self._bar.move_to(self._bar.count + 1, self.rates())

    def waiting(self, count: int) -> None:
        """Say that what is left is in the hands of other processes."""
        self._bar.move_to(self._bar.count, f"waiting for {count} of other processes")

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return max(time.monotonic() - self._started, 1e-9)

    def rates(self) -> str:
        """Such as "812 tokens/s, 91% of prompts cached, 2 failed"."""
        parts = [f"{self.usage.completion / self.seconds:,.0f} tokens/s"]
        if self.usage.cached_share is not None:
            parts.append(f"{self.usage.cached_share:.0%} of prompts cached")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)

    def report(self) -> str:
        """One line for the end."""
        rate = (self.done + self.failed) / self.seconds
        usage = self.usage
        line = (
            f"{several(self.done, self.unit)} in {self.seconds:.1f} s ({rate:.2f} a second); {usage.requests} requests"
        )
        line += f", {usage.prompt:,} prompt and {usage.completion:,} answer tokens"
        if usage.cached_share is not None:
            line += f", {usage.cached_share:.0%} of the prompt tokens cached"
        return line

    def close(self) -> None:
        """Finish the bar."""
        self._bar.close()
