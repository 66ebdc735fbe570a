"""What an evaluator is, several as one, and the evaluation mode of a model."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from detectron2.utils.comm import is_main_process


class DatasetEvaluator:
    """Sees every batch of inputs and outputs, and makes results of them at the end."""

    def reset(self) -> None:
        """Forget everything; called before a round."""

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take in one batch: the model's inputs and what it returned, equally long lists."""

    def evaluate(self) -> Any:
        """The results, {task: {metric: value}}; None where there is nothing to say (all ranks but 0)."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        self._evaluators = evaluators

    def reset(self) -> None:  # the three methods do to all what they do to one
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict[str, Any]:
        """The results of all, in rank 0 (empty elsewhere); AssertionError if two have a task of the same name."""
        merged: OrderedDict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            results = evaluator.evaluate()  # in every process: evaluators gather here
            if results is None or not is_main_process():
                continue
            twice = merged.keys() & results.keys()
            assert not twice, f"two evaluators have results named {sorted(twice)}"
            merged.update(results)
        return merged


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Have `model` in evaluation mode, and afterwards in the mode it had."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
