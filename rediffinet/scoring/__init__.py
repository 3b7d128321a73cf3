"""Predictions against references: pairs of files, scores, tables."""
