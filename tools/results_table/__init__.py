"""Finished evaluations in one table beside the published figures. See `__main__` for the command line."""
