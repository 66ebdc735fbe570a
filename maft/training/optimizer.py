"""The optimiser: per-part learning rates and weight decays, and clipping of the gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from maft.errors import UserError
from maft.modeling.network import LearningNetwork

OPTIMIZERS = ("ADAMW", "SGD")
CLIPPINGS = ("full_model", "value", "norm")

NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.modules.batchnorm._NormBase,  # batch and instance norms of any dimension
)
Group = dict[str, Any]


class HasModules(Protocol):
    """An nn.Module, as far as its parameters are concerned."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module by its name."""


def parameter_groups(
    model: HasModules,
    *,
    rate_group: Callable[[str], str],
    rate: float,
    multipliers: Mapping[str, float],
    decay: float,
    decay_norm: float,
    decay_embed: float,
) -> list[Group]:
    """The parameters that are trained, grouped by learning rate and weight decay.

    Args:
        model: its parameters with `requires_grad`; a shared one counts once.
        rate_group: the network's, from a parameter's name to the group whose multiplier applies.
        rate: the learning rate.
        multipliers: factors of `rate`, by the groups that the network's `rate_group` names; groups without one have 1.
        decay: weight decay of everything but norms and embeddings.
        decay_norm: of norms.
        decay_embed: of embeddings.

    Returns:
        Groups with "params", "names", "lr", "base_lr" and "weight_decay", in the order of their first parameter.
    """
    groups: dict[tuple[float, float], Group] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            lr = rate * multipliers.get(rate_group(f"{module_name}.{name}"), 1.0)
            weight_decay = decay
            if isinstance(module, NORMS):
                weight_decay = decay_norm
            elif isinstance(module, nn.Embedding):
                weight_decay = decay_embed
            empty: Group = {"params": [], "names": [], "lr": lr, "base_lr": lr, "weight_decay": weight_decay}
            group = groups.setdefault((lr, weight_decay), empty)
            group["params"].append(parameter)
            group["names"].append(f"{module_name}.{name}" if module_name else name)
    return list(groups.values())


def build_optimizer(cfg: Any, model: LearningNetwork) -> torch.optim.Optimizer:
    """The optimiser of a configuration's SOLVER section: AdamW for every published model.

    Raises:
        UserError: no such optimiser, or the model has nothing to train.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(
        model,
        rate_group=model.rate_group,
        rate=solver.BASE_LR,
        multipliers={"clip": solver.BACKBONE_MULTIPLIER, "sed_clip": solver.CLIP_MULTIPLIER},
        decay=solver.WEIGHT_DECAY,
        decay_norm=solver.WEIGHT_DECAY_NORM,
        decay_embed=solver.WEIGHT_DECAY_EMBED,
    )
    if not groups:
        raise UserError("the model has no parameter to train; check MODEL.META_ARCHITECTURE")
    # One call for many tensors: most of the optimiser's time on small networks is the calls themselves.
    if solver.OPTIMIZER == "ADAMW":
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, foreach=True)
    if solver.OPTIMIZER == "SGD":
        return torch.optim.SGD(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, foreach=True
        )
    raise UserError(f"SOLVER.OPTIMIZER: '{solver.OPTIMIZER}' is not one of {', '.join(OPTIMIZERS)}")


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its own learning rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


class GradientClipper:
    """Clip gradients as SOLVER.CLIP_GRADIENTS says.

    Args:
        kind: "full_model": all gradients together have at most the norm `limit`; "norm": each parameter's has; "value":
            no element exceeds it; None: they stay.
        limit: see `kind`.
        norm_type: order of the norm.
    """

    def __init__(self, kind: str | None, limit: float = 0.0, norm_type: float = 2.0) -> None:
        self.kind, self.limit, self.norm_type = kind, limit, norm_type

    @classmethod
    def from_config(cls, cfg: Any) -> GradientClipper:
        """The clipping of a configuration.

        Raises:
            UserError: no such clipping.
        """
        clip = cfg.SOLVER.CLIP_GRADIENTS
        if not clip.ENABLED:
            return cls(None)
        if clip.CLIP_TYPE not in CLIPPINGS or not clip.CLIP_VALUE > 0:
            raise UserError(
                f"SOLVER.CLIP_GRADIENTS: CLIP_TYPE '{clip.CLIP_TYPE}' with CLIP_VALUE {clip.CLIP_VALUE}; the type is "
                f"one of {', '.join(CLIPPINGS)}, the value above 0; or set ENABLED to False"
            )
        return cls(clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE)

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip the gradients of `parameters` in place.

        Returns:
            Their norm together before the clipping, a scalar on their device.
        """
        with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in with_gradient if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, self.norm_type)
        if self.kind == "full_model":
            nn.utils.clip_grads_with_norm_(with_gradient, self.limit, norm)
        elif self.kind == "value":
            nn.utils.clip_grad_value_(with_gradient, self.limit)
        elif self.kind == "norm":
            for parameter in with_gradient:
                nn.utils.clip_grad_norm_(parameter, self.limit, self.norm_type)
        return norm
