"""From the official archives of a data set to the files that are evaluated: `python -m tools.prepare_datasets`."""
