"""Named choices of the method, as plain data without JAX."""

from typing import Literal

Parameterization = Literal["x", "eps", "v", "both"]
"""Meaning of a network's output; "both" is x, then eps, in twice the channels."""

ScheduleName = Literal[
    "cosine", "linear", "linear_beta", "linear_beta_discrete", "karras", "timesteps"
]
"""Name of a schedule; "timesteps" is that of a network of discrete timesteps."""

Weight = Literal["constant", "snr", "truncated_snr", "snr_plus_one"]
"""Name of the weight w(logsnr) of the squared error in x."""

Clip = Literal["recompute", "keep", "none"]
"""Whether x̂ is clipped to [-1, 1], and eps then recomputed from it or kept."""

SolverName = Literal["ddim", "ancestral", "euler", "heun", "rk4"]
