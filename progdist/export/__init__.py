"""A distilled sampler as files that run without this package."""
