"""An export: the files of a model in one directory."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from progdist.checkpoint import SaveError
from progdist.errors import UsageError
from progdist.export import diffusers, formats, hub
from progdist.sampling.cards import Card
from progdist.sampling.pretrained import Pretrained
from progdist.workdir import files, layout, provenance

_LEVEL = 2 / 255  # one byte level in [-1, 1]


def write(pretrained: Pretrained, out: Path, names: Sequence[str]) -> float | None:
    """Writes a model as a directory that appears complete or not at all.

    Args:
      pretrained: the model.
      out: the directory; what is there is replaced.
      names: formats, of "jax", "onnx", "safetensors", "hub" and "diffusers".

    Returns:
      The largest difference between images of the JAX and the ONNX sampler, if both
      are written.

    Raises:
      UsageError: if a format cannot hold the model.
      SaveError: if the two samplers draw different images.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_directory(out) as part:
        _write(part, pretrained, names)
        if not {"jax", "onnx"} <= set(names):
            return None
        difference = formats.largest_difference(part, pretrained.portable())
        if not difference <= _LEVEL:
            raise SaveError(
                f"{out}: not written, since the images of the ONNX sampler differ "
                f"from those of JAX by {difference:.1e}"
            )
    return difference


def card_of(pretrained: Pretrained) -> Card:
    """Returns the card of the exported files."""
    card = {k: v for k, v in pretrained.card.items() if k != "content"}
    return card | {
        "sampler": "ddim",
        "num_steps": pretrained.num_steps,
        "num_classes": pretrained.num_classes,
        "params": pretrained.digest,
        "commit": card.get("commit") or "",
        "exported_by": provenance.code(),
        "jax": jax.__version__,
    }


def _write(directory: Path, pretrained: Pretrained, names: Sequence[str]) -> None:
    if "diffusers" in names:
        diffusers.check(pretrained)
    model, card = pretrained.portable(), card_of(pretrained)
    params = jax.tree.map(np.asarray, pretrained.params)
    if "safetensors" in names:
        formats.write_safetensors(directory / layout.PARAMS, params, card)
    if "hub" in names:
        hub.write(directory / layout.HUB, pretrained, card)
    if "diffusers" in names:
        diffusers.write(directory / layout.DIFFUSERS, pretrained, card)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if size > formats.MOST_BYTES and {"jax", "onnx"} & set(names):
        raise UsageError(
            f"--formats={','.join(names)}: {size:,} bytes of parameters; the files "
            f"of jax and onnx hold at most {formats.MOST_BYTES:,}"
        )
    if "jax" in names:
        formats.write_jax(directory / layout.JAX_SAMPLER, model, params, card)
    if "onnx" in names:
        formats.write_onnx(directory / layout.ONNX_SAMPLER, model, params, card)
