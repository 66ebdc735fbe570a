"""Checks of prepared data sets against what is published about them; see `python -m tools.check_datasets -h`."""
