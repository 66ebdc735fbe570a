"""A second and a third chance for functions that run out of CUDA memory."""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def _on_cpu(value: Any) -> Any:
    """`value` on the CPU if it lives on a CUDA device and can move, else unchanged."""
    on_cuda = getattr(getattr(value, "device", None), "type", None) == "cuda"
    return value.to(device="cpu") if on_cuda and hasattr(value, "to") else value


def retry_if_cuda_oom(func: Callable[..., _Result]) -> Callable[..., _Result]:
    """Wrap `func` so that CUDA memory running out is answered by two more attempts.

    The second attempt runs after the allocator's cache was emptied, the third on CPU copies of the arguments, so its
    result may lie on the CPU. Tensors inside containers are not moved. Other errors pass through at once.
    """

    @functools.wraps(func)
    def attempt(*args: Any, **kwargs: Any) -> _Result:
        for _ in range(2):
            try:
                return func(*args, **kwargs)
            except RuntimeError as error:
                if "CUDA out of memory. " not in str(error):
                    raise
            # Not inside the handler: there the traceback still holds the tensors that are to be freed.
            torch.cuda.empty_cache()
        _logger.info("CUDA memory ran out twice in %s: its arguments go to the CPU", func)
        return func(*map(_on_cpu, args), **{key: _on_cpu(value) for key, value in kwargs.items()})

    return attempt
