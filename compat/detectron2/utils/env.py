"""Seeds of every random generator in use."""

import logging
import os
import random

import numpy as np
import torch

_logger = logging.getLogger(__name__)


def seed_all_rng(seed: int | None = None) -> None:
    """Seed the generators of Python, NumPy and torch (CPU and every CUDA device).

    Args:
        seed: 0 <= seed < 2**32; None draws one from the operating system and logs it.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
        _logger.info("No seed given: using the random seed %d", seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
