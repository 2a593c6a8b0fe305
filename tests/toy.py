"""Problems whose denoiser and whose flow are known exactly, and how to count calls.

Written from the formulas, with none of the code under test: E[x | z] of Gaussian
data N(mean, std²), of two such modes and of a point mass, with the solution of the
probability-flow ODE for the first.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import settings

from progdist.diffusion.prediction import Denoise, Prediction

quick = settings(max_examples=10, deadline=None, database=None, derandomize=True)


def float64(test: Callable[..., None]) -> Callable[..., None]:
    """Runs one test in double precision."""

    @functools.wraps(test)
    def inside(*args: Any, **kwargs: Any) -> None:
        with jax.enable_x64(True):
            test(*args, **kwargs)

    return inside


def unchecked(function: Callable) -> Callable:
    """The function without the tests' annotation checks, to pass what they refuse."""
    return inspect.unwrap(function)


def alpha_sigma(logsnr: Any) -> tuple[np.ndarray, np.ndarray]:
    """alpha² = 1 / (1 + e^-logsnr), sigma² = 1 / (1 + e^logsnr), in float64."""
    logsnr = np.asarray(logsnr, np.float64)
    return 1 / np.sqrt(1 + np.exp(-logsnr)), 1 / np.sqrt(1 + np.exp(logsnr))


@functools.cache
def gaussian(mean: float, std: float) -> Denoise:
    """The exact denoiser of data N(mean, std²)."""
    return jax.jit(lambda z, logsnr: _exact(z, logsnr, std, lambda alpha, var: mean))


def point_mass(x: float) -> Denoise:
    """The exact denoiser of data that is always x."""
    return gaussian(x, 0.0)


@functools.cache
def two_modes(mode: float, std: float) -> Denoise:
    """The exact denoiser of data N(±mode, std²), both signs equally likely."""

    def denoise(z: jax.Array, logsnr: jax.Array) -> Prediction:
        def mean(alpha: jax.Array, var: jax.Array) -> jax.Array:
            return mode * jnp.tanh(alpha * mode * z / var)

        return _exact(z, logsnr, std, mean)

    return jax.jit(denoise)


def _exact(z: Any, logsnr: Any, std: float, mean: Callable) -> Prediction:
    """x̂ = (sigma² mean + alpha std² z) / var with var = alpha² std² + sigma²."""
    logsnr = logsnr.reshape(logsnr.shape + (1,) * (z.ndim - 1))
    alpha, sigma = 1 / jnp.sqrt(1 + jnp.exp(-logsnr)), 1 / jnp.sqrt(1 + jnp.exp(logsnr))
    var = alpha**2 * std**2 + sigma**2
    mu = mean(alpha, var)
    x = (sigma**2 * mu + alpha * std**2 * z) / var
    eps = sigma * (z - alpha * mu) / var
    return Prediction(x, eps, alpha * eps - sigma * x)


def gaussian_flow(
    z: Any, logsnr_from: Any, logsnr_to: Any, mean: float, std: float
) -> np.ndarray:
    """The ODE's solution: z keeps its distance to the mean in standard deviations."""
    alpha_1, sigma_1 = alpha_sigma(logsnr_from)
    alpha_0, sigma_0 = alpha_sigma(logsnr_to)
    spread_1 = np.sqrt(alpha_1**2 * std**2 + sigma_1**2)
    spread_0 = np.sqrt(alpha_0**2 * std**2 + sigma_0**2)
    return alpha_0 * mean + spread_0 / spread_1 * (np.asarray(z) - alpha_1 * mean)


def ddim_step(z_t: Any, x: Any, logsnr_t: Any, logsnr_s: Any) -> np.ndarray:
    """z_s = alpha_s x̂ + sigma_s (z_t - alpha_t x̂) / sigma_t, in float64."""
    alpha_t, sigma_t = alpha_sigma(logsnr_t)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    x = np.asarray(x, np.float64)
    return alpha_s * x + sigma_s * (np.asarray(z_t, np.float64) - alpha_t * x) / sigma_t


def observed_orders(errors: list[float]) -> np.ndarray:
    """log2 of how much the error falls each time that the steps double."""
    return np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))


class Counted:
    """A denoiser that counts the calls made when it runs, not when it is traced."""

    def __init__(self, denoise: Denoise):
        self.denoise = denoise
        self.num_calls = 0

    def __call__(self, z: jax.Array, logsnr: jax.Array) -> Prediction:
        jax.debug.callback(self._count)
        return self.denoise(z, logsnr)

    def _count(self) -> None:
        self.num_calls += 1

    def during(self, run: Callable[[], Any]) -> tuple[int, Any]:
        """Returns how many calls `run` made, and its result."""
        self.num_calls = 0
        result = jax.block_until_ready(run())
        jax.effects_barrier()
        return self.num_calls, result
