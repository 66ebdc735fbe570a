"""Holding the project against tensors recorded from the reference."""
