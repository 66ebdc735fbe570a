"""Pixel decoder: multi-scale features in, encoder maps and mask features out."""
