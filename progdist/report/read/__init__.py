"""Readers of a workdir's files, for the figures and the page."""

# Beyond these Matplotlib overflows.
LEAST, MOST = 1e-100, 1e100
