"""The demo: one's own images, classes and reasons in a browser. See `__main__` for the command line."""
