"""Gradient of a batch: taken in micro-batches, and clipped in groups of rows.

The B rows of a batch are G groups of B / G consecutive rows. The mean gradient of each
group is clipped by its global norm, and the clipped ones are averaged. One group is the
usual clipping; as many groups as devices is what the code released with Salimans & Ho
(2022) does, where each device clips its own gradient. The result is the same on any
number D of devices; what differs is where the means are taken:

| groups        | a group                 | means over devices        |
|---------------|-------------------------|---------------------------|
| G = 1         | the whole batch         | one, before clipping      |
| D divides G   | a part of a device's    | one, after clipping       |
| G divides D   | of D / G devices        | two, before and after     |

A group's rows are differentiated in micro-batches, so that a batch may need more memory
than there is. The mean over equal parts is the mean over all rows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from progdist import parallel
from progdist.model import Params
from progdist.parallel import PyTree

_Result = TypeVar("_Result")


class Division(NamedTuple):
    """Division of a batch into groups and micro-batches.

    Attributes:
      clip_norm: bound on the norm of each group's gradient; 0 for none.
      clip_groups: number of groups.
      micro_batch_size: rows differentiated at a time, over all devices; 0 for all. A
        micro-batch never exceeds a group.
    """

    clip_norm: float = 0.0
    clip_groups: int = 1
    micro_batch_size: int = 0

    def device_groups(self, num_devices: int) -> int:
        """Returns the number of groups that the devices form: 1, G or D.

        Raises:
          ValueError: if neither of groups and devices divides the other.
        """
        fewer, more = sorted((self.clip_groups, num_devices))
        if more % fewer:
            rule = f"a divisor or a multiple of the {num_devices} devices"
            raise ValueError(f"clip_groups={self.clip_groups}: must be {rule}")
        return fewer

    def parts(self, num_local: int, num_devices: int) -> tuple[int, int]:
        """Returns a device's number of groups, and of micro-batches in each of them.

        Args:
          num_local: rows of a device.
          num_devices: number of devices.

        Raises:
          ValueError: if the parts are not equal; names the field, its value and what is
            accepted.
        """
        groups, size = self.clip_groups, self.micro_batch_size
        num_groups = groups // self.device_groups(num_devices)
        group, rest = divmod(num_local, num_groups)
        if rest:
            rule = f"a divisor of {num_local * num_devices} images"
            raise ValueError(f"clip_groups={groups}: must be {rule}")
        micro = min(size // num_devices, group) if size else group
        if size % num_devices or group % micro:
            rule = f"the {num_devices} devices times a divisor of {group} images"
            raise ValueError(f"micro_batch_size={size}: must be {rule}")
        return num_groups, group // micro


class Gradient(NamedTuple):
    """Gradient of a batch.

    Attributes:
      value: mean of the loss and of its auxiliary value.
      gradient: mean of the groups' gradients, clipped.
      norm: mean of their norms before clipping.
    """

    value: PyTree
    gradient: Params
    norm: Float[Array, ""]


def mean_gradient(
    loss: Callable[[Params, Any], PyTree],
    params: Params,
    rows: PyTree,
    division: Division,
    *,
    unroll: bool,
) -> Gradient:
    """Returns the gradient of a batch, inside a `pmap`; the same on all devices.

    Args:
      loss: (params, rows) to a mean over the rows, and an auxiliary value that is one.
      params: the parameters, replicated.
      rows: this device's rows of all that the loss depends on, as leading axes.
      division: the groups and micro-batches; `device_groups` of them share the devices.
      unroll: whether parts follow each other in a straight line, or in a loop. On CPU,
        training inside a loop is ten times slower.
    """
    num_local = len(jax.tree.leaves(rows)[0])
    num_groups, num_micro = division.parts(num_local, parallel.num_devices())
    mean_over = functools.partial(_mean_over, unroll=unroll)
    clip = optax.clip_by_global_norm(division.clip_norm or float("inf"))
    differentiate = functools.partial(
        jax.value_and_grad(loss, has_aux=True), parallel.varying(params)
    )

    def of_group(rows: PyTree) -> Gradient:
        mean = mean_over(differentiate, rows, num_micro)
        value, gradient = parallel.mean(mean, parallel.DATA)
        clipped, _ = clip.update(gradient, clip.init(params))
        return Gradient(value, clipped, optax.tree.norm(gradient))

    return parallel.mean(mean_over(of_group, rows, num_groups), parallel.GROUP)


def _mean_over(
    function: Callable[[PyTree], _Result],
    rows: PyTree,
    num_parts: int,
    unroll: bool,
) -> _Result:
    """Returns the mean of the function over consecutive parts of the rows, in turn."""
    if num_parts == 1:
        return function(rows)
    parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), rows)
    total = (_unrolled_sum if unroll else _scanned_sum)(function, parts, num_parts)
    return jax.tree.map(lambda x: x / num_parts, total)


def _unrolled_sum(
    function: Callable[[PyTree], _Result], parts: PyTree, num_parts: int
) -> _Result:
    total = function(jax.tree.map(lambda x: x[0], parts))
    for i in range(1, num_parts):
        part = jax.tree.map(lambda x, i=i: x[i], parts)
        total = jax.tree.map(jnp.add, total, function(_after(total, part)))
    return total


def _after(total: PyTree, part: PyTree) -> PyTree:
    """Returns a part that waits for the total, so that activations share memory.

    XLA drops an optimization barrier on CPU before it orders the operations, but keeps
    0 x, which is not 0 for all x.
    """
    zero = 0.0 * sum(x.ravel()[0] for x in jax.tree.leaves(total))

    def wait(x: Array) -> Array:
        return x + zero if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(wait, part)


def _scanned_sum(
    function: Callable[[PyTree], _Result], parts: PyTree, num_parts: int
) -> _Result:
    def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, parallel.varying(zeros), parts, length=num_parts)[0]
