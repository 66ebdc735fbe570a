"""Scores for predictions of any origin, by the evaluators that score this project's own."""
