"""Utilisation of the devices: model FLOPs of an update ÷ its time ÷ their peak.

Model FLOPs are those of the network's convolutions and matrix products, two for a
multiply-add, at the passes of the plan: a backward pass counts as two forward ones.
Activations that are computed again (`remat`) do not count, so that the number compares
implementations. On CPU, convolutions of upsampled features count at the reduced cost at
which they are computed: a dry run there shows 2 % fewer FLOPs for CIFAR-10's network.
"""

import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from progdist.model import Model, bind, param_shapes
from progdist.nets.conditioning import Conditioning
from progdist.nets.settings import DType, MatmulPrecision
from progdist.plan import STUDENT_PASSES, Phase


class _Peaks(NamedTuple):
    """Peak TFLOP/s of one device for dense products, by type of the factors."""

    bfloat16: float | None  # None without tensor cores for it
    tensorfloat32: float | None
    float32: float


# Vendors' data sheets, dense: half of the values that NVIDIA marks "with sparsity".
# GeForce: NVIDIA's architecture white papers, products accumulated in float32.
_GPUS = {
    "B200": _Peaks(2250, 1125, 75),
    "H200 NVL": _Peaks(835.5, 417.5, 60),
    "H200|GH200": _Peaks(989.5, 494.5, 67),
    "H100 PCIe": _Peaks(756.5, 378, 51),
    "H100 NVL": _Peaks(835.5, 417.5, 60),
    "H100": _Peaks(989.5, 494.5, 67),
    "A100": _Peaks(312, 156, 19.5),
    "A10": _Peaks(125, 62.5, 31.2),
    "L40S": _Peaks(362, 183, 91.6),
    "L4": _Peaks(121, 60, 30.3),
    "T4": _Peaks(None, None, 8.1),
    "V100-SXM2": _Peaks(None, None, 15.7),
    "V100": _Peaks(None, None, 14),
    "RTX A6000": _Peaks(154.8, 77.4, 38.7),
    "RTX 3090": _Peaks(71, 35.6, 35.6),
    "RTX 4090": _Peaks(165.2, 82.6, 82.6),
    "RTX 5090": _Peaks(209.5, 104.8, 104.8),
}
# Google Cloud's pages of each version, bfloat16, of a chip divided by its JAX devices.
_TPUS = {
    "TPU v2": 46 / 2,
    "TPU v3": 123 / 2,
    "TPU v4": 275,
    "TPU v5 lite|TPU v5e": 197,
    "TPU v5|TPU v5p": 459,
    "TPU v6 lite|TPU v6e": 918,
    "TPU7x": 2307 / 2,
}
# A TPU composes a more precise product of passes in bfloat16.
_TPU_PASSES = {"default": 1, "high": 3, "bfloat16_3x": 3, "highest": 6}


def peak_flops(
    device_kind: str, dtype: DType, precision: MatmulPrecision
) -> float | None:
    """Returns the peak FLOP/s of one device for products; None if it is not known.

    Args:
      device_kind: `device_kind` of a JAX device.
      dtype: dtype of the factors.
      precision: precision of products of float32; the default is bfloat16 on TPUs, and
        TensorFloat-32 on the GPUs that have it.
    """
    for pattern, peak in _TPUS.items():
        if re.fullmatch(pattern, device_kind):
            passes = _TPU_PASSES[precision] if dtype == "float32" else 1
            return 1e12 * peak / passes
    for pattern, peaks in _GPUS.items():
        # Slices of a GPU and variants of a name have other peaks.
        found = re.search(rf"\b({pattern})\b(?! (Ti|D|Laptop))", device_kind)
        if found and "MIG" not in device_kind:
            peak = _of_gpu(peaks, dtype, precision)
            return None if peak is None else 1e12 * peak
    return None


def _of_gpu(
    peaks: _Peaks, dtype: DType, precision: MatmulPrecision
) -> float | int | None:
    if dtype == "bfloat16":
        return peaks.bfloat16
    tensorfloat32 = None if precision == "highest" else peaks.tensorfloat32
    return tensorfloat32 or peaks.float32


class Meter(NamedTuple):
    """Model FLOPs of an update, and the peak FLOP/s of all devices, if it is known."""

    update_flops: int | None  # None for a network whose FLOPs cannot be counted
    peak: float | None

    def read(self, steps_per_second: float) -> dict[str, float | None]:
        """Returns the fields of a row of metrics.jsonl."""
        if self.update_flops is None:
            return {"tflops_per_second": None, "utilisation": None}
        achieved = steps_per_second * self.update_flops
        return {
            "tflops_per_second": achieved / 1e12,
            "utilisation": achieved / self.peak if self.peak else None,
        }


def make_meter(
    model: Model, teacher: Model | None, phase: Phase, mesh: Mesh, *, dtype: DType
) -> Meter:
    """Returns the meter of a phase; see `peak_flops` for the dtype."""
    kind = mesh.devices.flat[0].device_kind
    peak = peak_flops(kind, dtype, model.precision)
    try:
        flops = update_flops(model, phase, teacher)
    except ValueError:
        flops = None
    return Meter(flops, peak and mesh.size * peak)


def update_flops(model: Model, phase: Phase, teacher: Model | None = None) -> int:
    """Returns the model FLOPs of an update over the global batch.

    Args:
      model: the model that is trained.
      phase: the phase.
      teacher: the frozen teacher, if it may be another network.
    """
    ours = min(phase.passes, STUDENT_PASSES)
    theirs = (phase.passes - ours) * forward_flops(teacher or model)
    return phase.batch_size * (ours * forward_flops(model) + theirs)


def forward_flops(model: Model) -> int:
    """Returns the FLOPs of the products in a forward pass of one image."""
    return _forward_flops(model._replace(precision="default"))


@functools.lru_cache(maxsize=8)  # a trace of a large network takes seconds
def _forward_flops(model: Model) -> int:
    def forward(params: Any, z_t: jax.Array, logsnr_t: jax.Array) -> Any:
        return bind(model, params)(z_t, logsnr_t, Conditioning(jnp.zeros(1, int)))

    z_t, logsnr_t = jnp.zeros((1, *model.image_shape)), jnp.zeros(1)
    return product_flops(jax.make_jaxpr(forward)(param_shapes(model), z_t, logsnr_t))


def product_flops(jaxpr: Any) -> int:
    """Returns the FLOPs of all convolutions and matrix products of a jaxpr.

    A product with padding counts in full; of branches the most expensive one counts.

    Raises:
      ValueError: for a loop whose number of turns is not known.
    """
    return sum(_flops_of(equation) for equation in jaxpr.eqns)


def _flops_of(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        size = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        return 2 * equation.outvars[0].aval.size * size
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * (kernel.size // features)
    inner = [product_flops(jaxpr) for jaxpr in _inner(params)]
    if name == "while" and any(inner):
        raise ValueError("a while loop has products; their number is not known")
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _inner(params: dict[str, Any]) -> list[Any]:
    """Returns the jaxprs among the parameters of an equation."""
    values = jax.tree.leaves(params, is_leaf=lambda value: hasattr(value, "eqns"))
    return [value for value in values if hasattr(value, "eqns")]
