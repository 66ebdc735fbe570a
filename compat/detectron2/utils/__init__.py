"""Processes, paths, logging, seeds and registries."""
