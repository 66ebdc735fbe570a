"""Learning rates, as a factor of each part's own: functions of the step alone, so there is no state to resume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maft.errors import UserError

NAMES = ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR")
WARMUPS = ("linear", "constant")


@dataclass(frozen=True)
class Schedule:
    """What SOLVER says about the learning rate.

    Attributes:
        name: one of `NAMES`; MAFT+ trains with WarmupPolyLR.
        steps: length of the training (MAX_ITER).
        warmup_steps: WARMUP_ITERS.
        warmup_factor: the factor at step 0.
        warmup: how the factor rises to 1, or stays ("constant") until the warm-up ends.
        power: exponent of the polynomial (POLY_LR_POWER).
        constant_ending: the polynomial's least factor; 0 for none (POLY_LR_CONSTANT_ENDING).
        milestones: steps at which WarmupMultiStepLR multiplies by `gamma` (STEPS).
        gamma: see `milestones`.
        end: what WarmupCosineLR ends at (BASE_LR_END / BASE_LR).
    """

    name: str
    steps: int
    warmup_steps: int = 0
    warmup_factor: float = 1.0
    warmup: str = "linear"
    power: float = 0.9
    constant_ending: float = 0.0
    milestones: Sequence[int] = ()
    gamma: float = 0.1
    end: float = 0.0

    @classmethod
    def from_config(cls, cfg: Any) -> Schedule:
        """The schedule of a configuration's SOLVER section.

        Raises:
            UserError: no such schedule or warm-up.
        """
        solver = cfg.SOLVER
        for key, value, choices in (
            ("LR_SCHEDULER_NAME", solver.LR_SCHEDULER_NAME, NAMES),
            ("WARMUP_METHOD", solver.WARMUP_METHOD, WARMUPS),
        ):
            if value not in choices:
                raise UserError(f"SOLVER.{key}: '{value}' is not one of {', '.join(choices)}")
        return cls(
            solver.LR_SCHEDULER_NAME,
            solver.MAX_ITER,
            solver.WARMUP_ITERS,
            solver.WARMUP_FACTOR,
            solver.WARMUP_METHOD,
            solver.POLY_LR_POWER,
            solver.POLY_LR_CONSTANT_ENDING,
            tuple(solver.STEPS),
            solver.GAMMA,
            solver.BASE_LR_END / solver.BASE_LR,
        )

    def factor(self, step: int) -> float:
        """What every learning rate is multiplied with at `step`, 0 to `steps` - 1."""
        if self.name == "WarmupPolyLR":
            factor = self._decay(step) * self._warmup_factor(step)
            return factor if step < self.warmup_steps else max(factor, self.constant_ending)
        if step >= self.warmup_steps:
            return self._decay(step)
        # The two others rise in a line from a part of the first value to the one at the end of the warm-up.
        start = self.warmup_factor * self._decay(0)
        if self.warmup == "constant":
            return start
        return start + (self._decay(self.warmup_steps) - start) * step / self.warmup_steps

    def _warmup_factor(self, step: int) -> float:
        if step >= self.warmup_steps:
            return 1.0
        if self.warmup == "constant":
            return self.warmup_factor
        return self.warmup_factor + (1.0 - self.warmup_factor) * step / self.warmup_steps

    def _decay(self, step: int) -> float:
        part = min(step / self.steps, 1.0)
        if self.name == "WarmupPolyLR":
            return (1.0 - part) ** self.power
        if self.name == "WarmupMultiStepLR":
            return self.gamma ** sum(step >= milestone for milestone in self.milestones)
        return self.end + (1.0 - self.end) * 0.5 * (1.0 + math.cos(math.pi * part))
