"""Results as lines to copy."""

import logging
from collections.abc import Mapping
from typing import Any

_logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log results so that they can be pasted into a table: for every task a line of metrics and a line of values.

    Args:
        results: {task: {metric: number}}; metrics with "-" in their name (one class each) are left out. A task's
            entry that is no mapping is logged as it is.
    """
    assert isinstance(results, Mapping) or not len(results), results
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            _logger.info("copypaste: %s=%s", task, metrics)
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        _logger.info("copypaste: Task: %s", task)
        _logger.info("copypaste: %s", ",".join(main))
        _logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))
