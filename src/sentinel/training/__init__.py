"""Fitting models on replayed features."""
