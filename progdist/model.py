"""A model: a network, the meaning of its output, and its noise schedule.

A model does not hold its parameters. It is made once per run, and bound to parameters
where it denoises.
"""

import contextlib
import functools
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, get_args, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from progdist import parallel
from progdist.diffusion.prediction import Prediction, from_output, num_outputs
from progdist.diffusion.schedules import Schedule, make_schedule
from progdist.diffusion.settings import Parameterization, ScheduleName
from progdist.nets import timesteps
from progdist.nets.blocks import Dropout
from progdist.nets.conditioning import Conditioning
from progdist.nets.networks import make_net
from progdist.nets.settings import NetConfig
from progdist.nets.types import ImageShape, MatmulPrecision

Params = Any

# What "high" is on a platform; on a CPU it is float32.
_HIGH = {"gpu": "tensorfloat32", "tpu": "bfloat16_3x"}


class Model(NamedTuple):
    """A model without its parameters.

    Attributes:
      net: called as net(z_t, logsnr_t, conditioning, dropout).
      parameterization: meaning of the network's output.
      schedule: noise schedule of its training.
      image_shape: (height, width, channels).
      num_classes: number of classes; 0 without labels.
      precision: of every product in the network, forward and backward; "default" is
        that of JAX, which JAX_DEFAULT_MATMUL_PRECISION sets.
    """

    net: nn.Module
    parameterization: Parameterization
    schedule: Schedule
    image_shape: ImageShape
    num_classes: int
    precision: MatmulPrecision = "default"


@runtime_checkable
class Denoiser(Protocol):
    """A model bound to its parameters."""

    def __call__(
        self,
        z_t: Float[Array, "b *d"],
        logsnr_t: Float[Array, " b"],
        conditioning: Conditioning | None = None,
    ) -> Prediction:
        """Returns the prediction at z_t."""
        ...


def make_model(
    net: NetConfig,
    *,
    parameterization: Parameterization,
    schedule: Schedule,
    image_shape: ImageShape,
    precision: MatmulPrecision = "default",
) -> Model:
    """Returns the model with these settings."""
    out_ch = image_shape[-1] * num_outputs(parameterization)
    return Model(
        make_net(net, out_ch),
        parameterization,
        schedule,
        image_shape,
        net.num_classes,
        precision,
    )


def schedule_of(name: ScheduleName, net: NetConfig) -> Schedule:
    """Returns the named schedule; "timesteps" is that of the network.

    Raises:
      ValueError: if the network has no timesteps, or they are invalid.
    """
    levels = getattr(net, "timesteps", None)
    knots = timesteps.logsnr_of(levels).tolist() if levels else ()
    return make_schedule(name, knots)


def precisions_of(platform: str) -> tuple[str, ...]:
    """Returns the precisions that products can have on "cpu", "gpu" or "tpu"."""
    others = set(_HIGH.values()) - {_HIGH.get(platform)}
    return tuple(name for name in get_args(MatmulPrecision) if name not in others)


def bind(model: Model, params: Params, dropout: Dropout | None = None) -> Denoiser:
    """Returns the denoiser of the model with these parameters."""

    def denoise(
        z_t: Float[Array, "b *d"],
        logsnr_t: Float[Array, " b"],
        conditioning: Conditioning | None = None,
    ) -> Prediction:
        with _products(model.precision):
            output: Any = model.net.apply(
                {"params": params}, z_t, logsnr_t, conditioning, dropout
            )
        return from_output(output, z_t, logsnr_t, model.parameterization)

    return denoise


def _products(precision: MatmulPrecision) -> AbstractContextManager[Any]:
    """Sets the precision of products traced within; the default is JAX's."""
    if precision == "default":
        return contextlib.nullcontext()
    is_high = precision in _HIGH.values()
    return jax.default_matmul_precision("high" if is_high else precision)


def has_small_maps(model: Model) -> bool:
    """Whether all feature maps of the network are below 8x8."""
    return max(model.image_shape[:2]) // getattr(model.net, "patch_size", 1) < 8


def param_specs(model: Model) -> Params:
    """Returns the `PartitionSpec` of each parameter: all are replicated.

    Initialisation, restoring, the train step and the sampler all use these values.
    """
    return jax.tree.map(lambda _: parallel.REPLICATED, param_shapes(model))


def init_params(model: Model, seed: int, mesh: Mesh) -> Params:
    """Returns fresh parameters on the devices."""
    init = jax.jit(lambda key: _init(model, key))
    return parallel.place(init(jax.random.key(seed)), mesh, param_specs(model))


def param_shapes(model: Model) -> Params:
    """Returns shapes and dtypes of the parameters, without using a device."""
    return _param_shapes(model._replace(precision="default"))


@functools.lru_cache(maxsize=8)  # a trace of a large network takes seconds
def _param_shapes(model: Model) -> Params:
    return jax.eval_shape(lambda key: _init(model, key), jax.random.key(0))


def param_template(model: Model, mesh: Mesh) -> Params:
    """Returns shapes, dtypes and shardings of the parameters."""
    return parallel.placed_shapes(param_shapes(model), mesh, param_specs(model))


def _init(model: Model, key: Key[Array, ""]) -> Params:
    z, conditioning = (
        jnp.zeros((1, *model.image_shape)),
        Conditioning(jnp.zeros(1, int)),
    )
    key = jax.random.fold_in(key, 0)
    variables = model.net.init(key, z, jnp.zeros(1), conditioning)
    return variables.get("params", {})
