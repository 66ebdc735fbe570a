"""Photographs with reasons written by hand: to try segmentation on, without a data set or a language model."""
