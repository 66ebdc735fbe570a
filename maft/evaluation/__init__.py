"""From a model's outputs to mIoU and PQ: metrics, evaluators, the resumable loop over a data set, results files."""
