"""A few-step sampler as files that run without this package.

A sampler maps noise z_1 [b, h, w, c], float32, and for a conditional network labels
[b], int32, to images in [-1, 1], by DDIM in float32. N, the schedule and the parameters
are part of it; b is free. Every file carries its card: what it is, and what made it.

  sampler.jax.zip: an archive of `exported`, for `jax.export.deserialize`, and card.json
  sampler.onnx: inputs noise and label, output images; the card as metadata
  params.safetensors: arrays named as in "down_0.block_0/conv1/kernel"; likewise
"""

import contextlib
import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from progdist.checkpoint import content
from progdist.denoiser import bind
from progdist.diffusion import samplers
from progdist.model import Model
from progdist.state import Params

PLATFORMS = ("cpu", "cuda", "tpu")
JAX_NAME, ONNX_NAME = "sampler.jax.zip", "sampler.onnx"
PARAMS_NAME = "params.safetensors"
MOST_BYTES = 2_000_000_000  # of parameters in a flatbuffer or protobuf, below 2 GiB
_OPSET = 21  # read by onnxruntime 1.20 and later
_INPUTS = ("noise", "label")

Card = dict[str, Any]
Sampler = Callable[..., Array]


def make_sampler(model: Model, params: Params, num_steps: int) -> Sampler:
    """Returns noise [b, h, w, c] (and labels [b]) -> images; see the module."""
    net = model.net.clone(dtype=jnp.float32, remat=False)

    def draw(
        noise: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None
    ) -> Float[Array, "b h w c"]:
        def body(j: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
            # The label goes along: the converter to ONNX takes no loop that reads
            # an argument from outside.
            z_t, label = state
            denoise = bind(net, params, model.output, label)
            i = num_steps - 1 - j
            z_s, _ = samplers.advance(denoise, model.schedule, z_t, i, num_steps)
            return z_s, label

        return jax.lax.fori_loop(0, num_steps, body, (noise, label))[0]

    return draw


def write_jax(path: Path, sampler: Sampler, model: Model, card: Card) -> None:
    """Writes the sampler for all of `PLATFORMS`; the same content, the same bytes."""
    (batch,) = jax.export.symbolic_shape("b")
    with _without_places():
        exported = jax.export.export(jax.jit(sampler), platforms=PLATFORMS)(
            *_inputs(model, batch)
        )
    parts = {"card.json": json.dumps(card, indent=2), "exported": exported.serialize()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            info = zipfile.ZipInfo(name)  # dated 1980
            info.external_attr = 0o644 << 16
            archive.writestr(info, part)


def write_onnx(path: Path, sampler: Sampler, model: Model, card: Card) -> None:
    """Writes the sampler as ONNX, by jax2onnx."""
    with _quiet():
        import jax2onnx
        import onnx

        inputs = _inputs(model, "b")
        graph: Any = jax2onnx.to_onnx(
            sampler,
            inputs,
            model_name="progdist",
            opset=_OPSET,
            input_names=_INPUTS[: len(inputs)],
            output_names=("images",),
        )
    _remove_unread(graph.graph)
    onnx.helper.set_model_props(graph, as_strings(card))
    onnx.save_model(graph, path)


def write_safetensors(path: Path, params: Params, card: Card) -> None:
    """Writes the parameters."""
    from safetensors.numpy import save_file

    leaves = {
        name: np.ascontiguousarray(leaf)
        for name, leaf in content.leaves_of(params).items()
    }
    save_file(leaves, path, as_strings(card))


def as_strings(card: Card) -> dict[str, str]:
    """Returns the card as strings; what is none already, as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in card.items()
    }


def largest_difference(directory: Path, model: Model, batch: int = 2) -> float:
    """Returns how far the images of the two samplers in a directory are apart.

    Both are read back and run on the CPU, on the same noise.
    """
    import onnxruntime

    noise = np.random.default_rng(0).standard_normal((batch, *model.image_shape))
    inputs = [noise.astype(np.float32), np.zeros(batch, np.int32)]
    inputs = inputs[: len(_inputs(model, batch))]
    with zipfile.ZipFile(directory / JAX_NAME) as archive:
        exported = jax.export.deserialize(bytearray(archive.read("exported")))
    with jax.default_device(jax.devices("cpu")[0]):
        ours = np.asarray(exported.call(*inputs))
    session = onnxruntime.InferenceSession(
        directory / ONNX_NAME, providers=["CPUExecutionProvider"]
    )
    theirs: Any = session.run(None, dict(zip(_INPUTS, inputs, strict=False)))[0]
    return float(np.abs(ours - theirs).max())


def _inputs(model: Model, batch: Any) -> list[jax.ShapeDtypeStruct]:
    """What a sampler takes; the size of the batch may be a symbol or a name."""
    noise = jax.ShapeDtypeStruct((batch, *model.image_shape), jnp.float32)
    label = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return [noise, label] if model.net.num_classes else [noise]


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Keeps the paths of source files on this machine out of a program."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the converter from reporting plug-ins that nothing here needs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _remove_unread(graph: Any) -> None:
    """Removes constants that no node reads; onnxruntime would warn of each."""
    read = _names_read(graph)
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in read:
            del graph.initializer[i]
    for inner in _inner_graphs(graph):
        _remove_unread(inner)


def _names_read(graph: Any) -> set[str]:
    read = {value.name for value in graph.output}
    read.update(name for node in graph.node for name in node.input)
    return read.union(*map(_names_read, _inner_graphs(graph)))


def _inner_graphs(graph: Any) -> list[Any]:
    """The bodies of loops."""
    attributes = (a for node in graph.node for a in node.attribute)
    return [attribute.g for attribute in attributes if attribute.HasField("g")]
