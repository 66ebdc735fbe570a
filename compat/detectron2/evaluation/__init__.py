"""The interface of evaluators."""

from .evaluator import DatasetEvaluator, DatasetEvaluators, inference_context
from .testing import print_csv_format

__all__ = ["DatasetEvaluator", "DatasetEvaluators", "inference_context", "print_csv_format"]
