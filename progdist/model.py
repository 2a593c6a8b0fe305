"""The configured model: a network, what its output means, and its schedule."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key

from progdist import parallel
from progdist.config import Config
from progdist.diffusion.prediction import Target, num_outputs
from progdist.diffusion.schedules import Schedule, make_schedule
from progdist.evaluate import sampling
from progdist.nets.unet import UNet
from progdist.trainer.state import Params


class Model(NamedTuple):
    """All of a model but its parameters."""

    net: UNet
    output: Target
    schedule: Schedule
    image_shape: tuple[int, int, int]


def make_model(config: Config, dropout: float = 0.0) -> Model:
    """Returns the configured model, with a dropout rate for training."""
    fields = dataclasses.asdict(config.model)
    output = fields.pop("output")
    channels = config.data.image_shape[-1] * num_outputs(output)
    fields["dtype"] = jnp.dtype(fields["dtype"])
    fields["head_dim"] = fields["head_dim"] or None
    net = UNet(**fields, dropout=dropout, out_ch=channels)
    schedule = make_schedule(config.schedule)
    return Model(net, output, schedule, config.data.image_shape)


def init_params(model: Model, seed: int, mesh: Mesh) -> Params:
    """Returns fresh parameters on every device."""
    init = jax.jit(functools.partial(_init, model))
    return parallel.replicate(init(jax.random.key(seed)), mesh)


def param_shapes(model: Model) -> Params:
    """Returns the shapes of the parameters, without a device."""
    return jax.eval_shape(functools.partial(_init, model), jax.random.key(0))


def param_template(model: Model, mesh: Mesh) -> Params:
    """Returns shapes, dtypes and places of parameters on every device."""
    return parallel.replicated_shapes(param_shapes(model), mesh)


def _init(model: Model, key: Key[Array, ""]) -> Params:
    z = jnp.zeros((1, *model.image_shape))
    label = jnp.zeros(1, int)
    return model.net.init(jax.random.fold_in(key, 0), z, jnp.zeros(1), label)["params"]


def make_sampler(
    model: Model, mesh: Mesh, name: sampling.SamplerName, gamma: float
) -> sampling.Sampler:
    """Returns the compiled sampler of that name; see `drawing.make_sampler`."""
    return sampling.make_sampler(
        model.net,
        model.output,
        model.schedule,
        model.image_shape,
        model.net.num_classes,
        mesh,
        name,
        gamma,
    )
