"""From the official archives of a data set to the files that are evaluated; see `python -m tools.prepare_datasets -h`."""
