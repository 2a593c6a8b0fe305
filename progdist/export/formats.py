"""Export formats: a few-step sampler as files that run without this package.

A sampler maps noise z_1 [b, h, w, c], float32, and for a conditional network labels
[b], int32, to images in [-1, 1], by DDIM in float32. N, schedule and parameters are
fixed; b is free. Every file carries a card that describes it and its origin.

  sampler.jax.zip: an archive of `exported`, for `jax.export.deserialize`, and card.json
  sampler.onnx: inputs noise and label, output images; the card as metadata
  params.safetensors: arrays named as in "down_0.block_0/conv1/kernel"; the same
"""

import contextlib
import functools
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from progdist.checkpoint import SaveError, digests, trees
from progdist.diffusion import samplers
from progdist.diffusion.prediction import Denoise
from progdist.model import Model, Params, bind
from progdist.nets.conditioning import Conditioning
from progdist.workdir import layout

PLATFORMS = ("cpu", "cuda", "tpu")
MOST_BYTES = 2_000_000_000  # parameters in a flatbuffer or protobuf; below 2 GiB
_OPSET = 21  # read by onnxruntime 1.20 and later
_INPUTS = ("noise", "label")

Card = dict[str, Any]
Sampler = Callable[..., Array]


def make_sampler(model: Model, params: Params, num_steps: int) -> Sampler:
    """Returns the function (noise (, labels)) -> images; see the module docstring."""

    def draw(
        noise: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None
    ) -> Float[Array, "b h w c"]:
        denoise = _denoise(model, params, label)
        return samplers.sample(denoise, model.schedule, noise, num_steps=num_steps)

    return draw


def make_step(model: Model, params: Params, num_steps: int) -> Sampler:
    """Returns (j, z_t (, labels)) -> z_s: step j = 0 … N - 1 of the sampler."""

    def step(
        j: Int[Array, ""],
        z_t: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        denoise = _denoise(model, params, label)
        i = num_steps - 1 - j
        return samplers.advance(denoise, model.schedule, z_t, i=i, num_steps=num_steps)[
            0
        ]

    return step


def write_jax(path: Path, model: Model, params: Params, card: Card) -> None:
    """Writes the sampler for all `PLATFORMS`; equal content gives equal bytes."""
    sampler = make_sampler(model, params, card["num_steps"])
    (batch,) = jax.export.symbolic_shape("b")
    with _without_places():
        exported = jax.export.export(jax.jit(sampler), platforms=PLATFORMS)(
            *_inputs(model, batch)
        )
    parts = {"card.json": json.dumps(card, indent=2), "exported": exported.serialize()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            info = zipfile.ZipInfo(name)  # with a fixed date, 1980
            info.external_attr = 0o644 << 16
            archive.writestr(info, part)


def write_onnx(path: Path, model: Model, params: Params, card: Card) -> None:
    """Writes the sampler as ONNX: the step, converted by jax2onnx, in a Loop.

    Raises:
      SaveError: if it cannot be converted.
    """
    import onnx

    num_steps = card["num_steps"]
    try:
        step = _convert(make_step(model, params, num_steps), model)
    except Exception as error:  # the converter may raise anything
        raise SaveError(
            f"{path.name}: jax2onnx cannot convert this ({trees.reason(error)})"
        ) from error
    sampler = _repeat(step, num_steps)
    onnx.helper.set_model_props(sampler, as_strings(card))
    onnx.save_model(sampler, path)


def write_safetensors(path: Path, params: Params, card: Card) -> None:
    """Writes the parameters, with the card.

    Raises:
      SaveError: if they cannot be written.
    """
    write_arrays(path, digests.leaves_of(params), as_strings(card))


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], notes: dict[str, str]
) -> None:
    """Writes named arrays as safetensors, with notes as metadata.

    Raises:
      SaveError: if they cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        save_file(whole, path, notes)
    except SafetensorError as error:
        raise SaveError(f"{path.name}: could not be written ({error})") from None
    path.chmod(0o644)  # like the other files


def as_strings(card: Card) -> dict[str, str]:
    """Returns the card as strings, with other values as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in card.items()
    }


def largest_difference(directory: Path, model: Model) -> float:
    """Returns the largest difference between images of a directory's two samplers.

    Both are loaded and run on the CPU, on the same noise.
    """
    import onnxruntime

    noise = np.random.default_rng(0).standard_normal((2, *model.image_shape))
    inputs = [noise.astype(np.float32), np.zeros(2, np.int32)]
    inputs = inputs[: len(_inputs(model, 2))]
    with zipfile.ZipFile(directory / layout.JAX_SAMPLER) as archive:
        exported = jax.export.deserialize(bytearray(archive.read("exported")))
    with jax.default_device(jax.devices("cpu")[0]):
        ours = np.asarray(exported.call(*inputs))
    session = onnxruntime.InferenceSession(
        directory / layout.ONNX_SAMPLER, providers=["CPUExecutionProvider"]
    )
    theirs: Any = session.run(None, dict(zip(_INPUTS, inputs, strict=False)))[0]
    return float(np.abs(ours - theirs).max())


def _denoise(model: Model, params: Params, label: Array | None) -> Denoise:
    conditioning = Conditioning(label)
    return functools.partial(bind(model, params), conditioning=conditioning)


def _convert(step: Sampler, model: Model) -> Any:
    """Returns the step as ONNX, with inputs j, z_t and label, and output z_s."""
    with _quiet():
        import jax2onnx

        inputs = [jax.ShapeDtypeStruct((), jnp.int32), *_inputs(model, "b")]
        return jax2onnx.to_onnx(
            step,
            inputs,
            model_name="step",
            opset=_OPSET,
            input_names=("j", "z_t", "label")[: len(inputs)],
            output_names=("z_s",),
        )


def _repeat(step: Any, num_steps: int) -> Any:
    """Returns noise (, label) -> images, with the step as the body of a Loop.

    The body counts in int64 and passes on a condition that is always true. It reads the
    label from the enclosing graph.
    """
    from onnx import TensorProto, helper

    body = step.graph
    _, z_t, *labels = body.input
    (z_s,) = body.output
    noise = helper.make_value_info("noise", z_t.type)
    images = helper.make_value_info("images", z_s.type)
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    go_on, going = (
        helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("go", "going")
    )
    nodes = [
        helper.make_node("Cast", ["count"], ["j"], to=TensorProto.INT32),
        helper.make_node("Identity", ["go"], ["going"]),
        *body.node,
    ]
    inner = helper.make_graph(nodes, "step", [count, go_on, z_t], [going, z_s])
    inner.initializer.extend(body.initializer)
    inner.value_info.extend(body.value_info)
    loop = helper.make_node("Loop", ["num_steps", "", "noise"], ["images"], body=inner)
    steps = helper.make_tensor("num_steps", TensorProto.INT64, [], [num_steps])
    outer = helper.make_graph([loop], "sampler", [noise, *labels], [images], [steps])
    return helper.make_model(
        outer,
        opset_imports=step.opset_import,
        ir_version=step.ir_version,
        producer_name="progdist",
    )


def _inputs(model: Model, batch: Any) -> list[jax.ShapeDtypeStruct]:
    """Returns a sampler's inputs; the batch size may be a symbol or a name."""
    noise = jax.ShapeDtypeStruct((batch, *model.image_shape), jnp.float32)
    label = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return [noise, label] if model.num_classes else [noise]


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Keeps source paths of this machine out of a program."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the converter's reports about plug-ins that are not needed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
