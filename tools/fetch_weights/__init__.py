"""Published weights: fetched or taken from files, and checked by their content. See `__main__` for the command line."""
