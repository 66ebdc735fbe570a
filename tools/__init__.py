"""Command lines: what a user runs, one module each."""
