"""Holding SED against tensors recorded from its reference."""
