"""Models opened by their path alone, to draw images from."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, UInt8

from progdist import checkpoint, parallel
from progdist.checkpoint import CheckpointError
from progdist.config import net_from_dict
from progdist.diffusion import solvers
from progdist.diffusion.prediction import Prediction
from progdist.diffusion.settings import Clip, SolverName
from progdist.errors import UsageError, did_you_mean, not_one_of
from progdist.model import Model, Params, bind, param_template
from progdist.nets.conditioning import Conditioning
from progdist.nets.types import ImageShape, MatmulPrecision
from progdist.plan import MOST_STEPS
from progdist.sampling import cards, hub
from progdist.sampling.cards import Card
from progdist.sampling.draw import Batches, Sampler, draw_trajectory, make_sampler
from progdist.workdir import layout
from progdist.workdir.copies import local

# Files of parameters in exported folders, and in those of the Hub.
_PARAMS = "model.safetensors", "hub/model.safetensors", "params.safetensors"
GAMMA = 0.3  # noise of the ancestral sampler
BATCH_SIZE = 64

Images = UInt8[np.ndarray, "b h w c"]
Labels = str | int | Sequence[str | int] | None


class Pretrained:
    """A trained model, which draws images.

    Attributes:
      card: where the model comes from and what it needs; see `progdist.sampling.cards`.
      num_steps: network calls per image.
      model: the network with its parameterization and schedule.
      params: its parameters.
    """

    def __init__(self, model: Model, params: Params, card: Card, num_steps: int):
        """Takes the parts; `load` finds them."""
        self.model, self.params, self.card = model, params, card
        self.num_steps = num_steps
        self._compiled = functools.cache(self._compile)
        self._denoise = jax.jit(
            lambda params, *inputs: bind(self.model, params)(*inputs)
        )

    @property
    def image_shape(self) -> ImageShape:
        """(height, width, channels) of an image."""
        return self.model.image_shape

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without classes."""
        return self.model.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by number; their numbers if they have no names."""
        names = self.card.get("class_names") or map(str, range(self.num_classes))
        return tuple(names)

    def portable(self) -> Model:
        """Returns the model in float32, without recomputation."""
        net = dataclasses.asdict(net_from_dict(self.card["net"]).portable())
        card = self.card | {"net": net}
        return cards.model_of(card, "the card", self.model.precision)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the parameters, as in eval.jsonl."""
        return checkpoint.fingerprint_of(self.params)[:16]

    def sample(
        self,
        num: int,
        *,
        label: Labels = None,
        seed: int = 0,
        sampler: SolverName = "ddim",
        gamma: float = GAMMA,
        clip: Clip = "recompute",
        batch_size: int = BATCH_SIZE,
    ) -> Images:
        """Draws images, as bytes.

        Image i depends only on the seed and on i, not on `num`; on another batch size
        or number of devices it may differ by rounding.

        Args:
          num: number of images.
          label: name or number of the class to draw, or several to draw in turn; by
            default all classes in turn.
          seed: random seed of the initial noise.
          sampler: name of the sampler; all make `num_steps` network calls.
          gamma: noise of the ancestral sampler, 0 to 1.
          clip: how DDIM and the ancestral sampler clip x̂: "recompute" takes eps from
            the clipped x̂; "keep" keeps the predicted eps, as diffusers does; "none".
          batch_size: number of images computed together.

        Raises:
          UsageError: if there is no such class, or the sampler cannot make that number
            of network calls.
          NonFiniteError: if a pixel is NaN or infinite.
        """
        options: dict[str, Any] = {"sampler": sampler, "gamma": gamma, "clip": clip}
        batches = self.batches(
            num, label=label, seed=seed, batch_size=batch_size, **options
        )
        return np.concatenate(list(batches))

    def batches(
        self,
        num: int,
        *,
        label: Labels = None,
        seed: int = 0,
        sampler: SolverName = "ddim",
        gamma: float = GAMMA,
        clip: Clip = "recompute",
        batch_size: int = BATCH_SIZE,
        start: int = 0,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Iterator[Images]:
        """Returns images start … num - 1 of `sample`, in batches.

        A batch is drawn in pieces of a few seconds; after each, `advance` is called
        with the number of images that it completes.
        """
        self.check_sampler(sampler)
        _check(num=num, seed=seed, batch_size=batch_size)
        compiled, params, mesh = self._compiled(sampler, gamma, clip, batch_size)
        return Batches(
            compiled,
            params,
            seed,
            num,
            self.num_steps,
            batch_size,
            mesh,
            start,
            self.labels(label),
        ).draw(advance)

    def trajectory(
        self,
        num: int,
        *,
        label: Labels = None,
        seed: int = 0,
        clip: Clip = "recompute",
    ) -> Float[np.ndarray, "states n h w c"]:
        """Returns the DDIM states z_t of images, from noise at t = 1 to the images."""
        _check(num=num, seed=seed)
        return draw_trajectory(
            self.model,
            self.params,
            seed=seed,
            num_images=num,
            num_steps=self.num_steps,
            labels=self.labels(label),
            clip=clip,
        )

    def denoise(
        self,
        z: Float[Array, "b h w c"] | Float[np.ndarray, "b h w c"],
        logsnr: Float[Array, " b"] | Float[np.ndarray, " b"] | float,
        conditioning: Conditioning | None = None,
    ) -> Prediction:
        """Returns the prediction at noisy images z.

        Args:
          z: noisy images, alpha x + sigma eps with x in [-1, 1].
          logsnr: their log-SNR, log(alpha² / sigma²); one for all, or one for each.
          conditioning: `progdist.Conditioning(label)`, for a conditional model.
        """
        z = jnp.asarray(z, jnp.float32)
        levels = jnp.broadcast_to(jnp.asarray(logsnr, z.dtype), z.shape[:1])
        return self._denoise(self.params, z, levels, conditioning)

    def labels(self, label: Labels) -> list[int]:
        """Returns the numbers of classes by name or number; empty for None.

        Raises:
          UsageError: if there is no such class.
        """
        if label is None:
            return []
        words = [*label] if isinstance(label, Sequence) else [label]
        words = [label] if isinstance(label, str) else words
        if not words:
            raise UsageError("label: name at least one class")
        return [self._number_of(word) for word in words]

    def check_sampler(self, sampler: SolverName) -> None:
        """Refuses a sampler that cannot make this number of network calls.

        Raises:
          UsageError: naming the number.
        """
        names = get_args(SolverName)
        if sampler not in names:
            raise UsageError(f"sampler={sampler}: {not_one_of(sampler, names)}")
        try:
            solvers.check_calls(sampler, self.num_steps)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _compile(
        self, sampler: SolverName, gamma: float, clip: Clip, batch_size: int
    ) -> tuple[Sampler, Params, Mesh]:
        """Returns a sampler, with the parameters and devices that it uses."""
        mesh = parallel.make_mesh(parallel.devices_sharing(batch_size))
        compiled = make_sampler(self.model, mesh, sampler, gamma, clip)
        sharding = NamedSharding(mesh, parallel.REPLICATED)
        return compiled, jax.device_put(self.params, sharding), mesh

    def _number_of(self, label: str | int) -> int:
        names, count = self.class_names, self.num_classes
        if not count:
            raise UsageError(f"label={label}: the model has no classes")
        if label in names:
            return names.index(str(label))
        if str(label) in map(str, range(count)):
            return int(label)
        known = f"0 to {count - 1}" if count > 12 else ", ".join(names)
        meant = did_you_mean(str(label), names)
        raise UsageError(f"label={label}: is not one of {known}{meant}")


def _check(**numbers: int) -> None:
    """Refuses numbers of images, and seeds, that cannot be drawn."""
    for name, value in numbers.items():
        low, high = (0, 2**32 - 1) if name == "seed" else (1, 10**9)
        if not isinstance(value, Integral) or not low <= value <= high:
            raise UsageError(
                f"{name}={value}: must be a whole number, {low} to {high:,}"
            )


def load(
    path: str | Path,
    steps: int | None = None,
    *,
    teacher: bool = False,
    precision: MatmulPrecision | None = None,
) -> Pretrained:
    """Opens a trained model, to draw images from.

    Args:
      path: workdir of a run, directory of one of its `models/`, exported folder or its
        .safetensors file, any of them in a bucket as gs://BUCKET/PATH, or
        hf://OWNER/NAME on the Hugging Face Hub.
      steps: network calls per image, N. Selects the student of a run; a single model
        knows its own. An undistilled teacher takes any number.
      teacher: whether to open the undistilled teacher of a run.
      precision: precision of the network's products; by default that of its run, or
        "highest" where this platform has no such precision.

    Raises:
      InputError: if there is no such model, or it is damaged; the message lists those
        that a run has.
    """
    is_remote = str(path).startswith(hub.PREFIX)
    wanted = _wanted(steps, teacher)
    place = hub.download(str(path)) if is_remote else local(path, wanted)
    if (place / layout.MODELS).is_dir():
        place = _model_of_run(place, steps, teacher)
    place = with_params(place)
    card = cards.read_card(place)
    num_steps = _num_steps(place, card, steps)
    model = cards.model_of(card, str(place), precision)
    try:
        template = param_template(model, parallel.make_mesh(jax.devices()[:1]))
    except OverflowError:
        raise CheckpointError(f"{place}: its card has sizes beyond any array") from None
    return Pretrained(model, checkpoint.load_model(place, template), card, num_steps)


def _wanted(steps: int | None, teacher: bool) -> Callable[[str], bool]:
    """Selects what to copy from a bucket: of a run, its manifests and one model."""
    wanted = "phase_00_*" if teacher else f"*_steps_{'*' if steps is None else steps}"

    def is_wanted(name: str) -> bool:
        if tree := layout.tree_of(name):
            is_known = layout.is_manifest(name) and not layout.is_checkpoint(name)
            return is_known or fnmatch(tree, f"{layout.MODELS}/{wanted}")
        is_shown = layout.is_of_run(name) and name != layout.CONFIG
        return layout.is_of_model(name) and not is_shown

    return is_wanted


def _model_of_run(workdir: Path, steps: int | None, teacher: bool) -> Path:
    """Returns the directory of a run's model."""
    finished = checkpoint.finished_models(workdir)
    if steps is None and not teacher and len(finished) > 1:
        known = ", ".join(map(str, sorted(finished.values())))
        raise UsageError(f"num_steps is missing; {workdir} has models of {known} steps")
    if steps is None and not teacher:
        steps = next(iter(finished.values()), None)
    return checkpoint.find_model(workdir, None if teacher else steps)


def with_params(path: Path) -> Path:
    """Returns the model directory, or the file of parameters in a folder.

    Raises:
      CheckpointError: if there is neither; of a folder of diffusers, with the command
        that converts it.
    """
    if path.is_file() or checkpoint.is_model(path):
        return path
    for name in _PARAMS:
        if (path / name).is_file():
            return path / name
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    hub.check_not_of_diffusers(path, str(path))
    raise CheckpointError(
        f"{path}: holds no model; pass a workdir, a directory of models/, an exported "
        f"folder, a .safetensors file or {hub.PREFIX}OWNER/NAME"
    )


def _num_steps(path: Path, card: Card, steps: int | None) -> int:
    """Returns N; a student is defined only at its own."""
    own: int = card["num_steps"]
    if steps is None or steps == own:
        return own
    if card.get("phase", 1):
        raise UsageError(f"num_steps={steps}: {path} is a student of {own} steps")
    if not 1 <= steps <= MOST_STEPS:
        raise UsageError(f"num_steps={steps}: must be 1 to {MOST_STEPS:,}")
    return steps
