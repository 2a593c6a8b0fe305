"""Distances between the samples of a model and the data."""
