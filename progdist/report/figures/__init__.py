"""Figures of a run, as PNG files and as SVG inside the page."""
