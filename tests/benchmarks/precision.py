"""What rounded products do to distillation and to drawn images, emulated on a CPU.

    python -m tests.benchmarks.precision WORKDIR [WORKDIR ...]

Takes the undistilled teachers of runs. Each program is traced as it is, and evaluated
with the operands of every product rounded as a GPU or TPU rounds them at the program's
own precision: to TF32 or bfloat16, or split into three products of bfloat16. The
reference is the same program in float64.

For the start of a round, where the student equals the teacher, prints the loss, and the
error that rounding adds to loss and gradient; then the error of images of DDIM. Takes
five minutes a run.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

import progdist
from progdist import preflight
from progdist.config import open_run
from progdist.data.batches import batch_at
from progdist.diffusion import samplers
from progdist.model import Model, bind
from progdist.trainer import step
from progdist.trainer.state import TrainState

BATCH, NUM_PARTS, IMAGES = 512, 8, 64
STEPS = 8192, 1024, 64, 4
DRAWN_STEPS = 64, 4


class Setting(NamedTuple):
    """Precision of student and target on a platform; `dtype` is the network's."""

    platform: str
    training: str
    target: str
    dtype: str = "float32"

    def __str__(self) -> str:
        """Returns the columns of a table."""
        return f"{self.platform:4}{self.training:12}{self.target:12}{self.dtype:9}"


SETTINGS = (
    Setting("gpu", "highest", "highest"),
    Setting("gpu", "default", "highest"),
    Setting("gpu", "default", "default"),
    Setting("tpu", "bfloat16_3x", "bfloat16_3x"),
    Setting("tpu", "default", "highest"),
    Setting("tpu", "default", "bfloat16_3x"),
    Setting("tpu", "default", "default"),
    Setting("gpu", "highest", "highest", "bfloat16"),
)


def emulated(function: Callable[..., Any], platform: str) -> Callable[..., Any]:
    """Returns the function with its products as a "gpu" or "tpu" computes them."""

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = _evaluate(
            closed.jaxpr, closed.consts, jax.tree.leaves(args), platform
        )
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return run


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], platform: str
) -> list[Any]:
    """Evaluates a jaxpr, and those inside it, equation by equation."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        is_literal = isinstance(atom, jax.extend.core.Literal)
        return atom.val if is_literal else values[atom]

    for equation in jaxpr.eqns:
        inputs = list(map(read, equation.invars))
        outputs = _apply(equation, inputs, platform)
        values.update(zip(equation.outvars, outputs, strict=True))
    return list(map(read, jaxpr.outvars))


def _apply(equation: Any, inputs: list[Any], platform: str) -> Sequence[Any]:
    """Returns the results of an equation."""
    params = equation.params
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if inner is not None:
        consts = getattr(inner, "consts", ())
        return _evaluate(getattr(inner, "jaxpr", inner), consts, inputs, platform)
    product = functools.partial(equation.primitive.bind, **params)
    if equation.primitive.name in ("dot_general", "conv_general_dilated"):
        a, b = inputs
        return [_rounded_product(product, a, b, params["precision"], platform)]
    outputs = product(*inputs)
    return outputs if equation.primitive.multiple_results else [outputs]


def _rounded_product(
    product: Callable[..., Any], a: Any, b: Any, precision: Any, platform: str
) -> Any:
    """Returns a product of float32 at a platform's `jax.lax.Precision`."""
    level = (precision or (jax.lax.Precision.DEFAULT,))[0]
    if level == jax.lax.Precision.HIGHEST or a.dtype != jnp.float32:
        return product(a, b)
    if platform == "gpu":
        return product(_rounded(a, 10), _rounded(b, 10))
    a_high, b_high = _rounded(a, 7), _rounded(b, 7)
    high = product(a_high, b_high)
    if level == jax.lax.Precision.DEFAULT:
        return high
    a_low, b_low = _rounded(a - a_high, 7), _rounded(b - b_high, 7)
    return high + (product(a_high, b_low) + product(a_low, b_high))


def _rounded(x: Any, bits: int) -> Any:
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)


class Case:
    """The start of a round: a teacher, its copy as student, and a batch."""

    def __init__(self, workdir: str) -> None:
        """Reads the teacher and a batch of its data, and draws noise."""
        _, config = open_run(workdir)
        teacher = progdist.load(workdir, teacher=True)
        self.model, self.params = teacher.model, teacher.params
        source = preflight.open_data(config.data)
        self.batch = batch_at(source, 0, 0, BATCH, flip=False)
        self.z_1 = jax.random.normal(jax.random.key(1), (IMAGES, *source.image_shape))
        self.eps = jax.random.normal(jax.random.key(0), self.batch.image.shape)

    def update(self, setting: Setting) -> Callable[..., Any]:
        """Returns (N, u) -> mean loss and gradient, as one vector each."""
        student, teacher = (
            _with(self.model, precision, setting.dtype)
            for precision in (setting.training, setting.target)
        )
        loss = step.make_distill_loss(student, teacher, weight="truncated_snr", ratio=2)

        def mean(params: Any, teacher_params: Any, batch: Any, *draws: Any) -> Any:
            num_steps, u, eps = draws
            unused: Any = None
            round_ = step.Round(teacher_params, num_steps, num_steps, unused)
            state = TrainState(jnp.int32(0), params, None, ())
            examples = loss(state, round_, batch, step.Draws(u, eps, unused))
            return examples.loss.mean()

        return jax.jit(emulated(jax.value_and_grad(mean), setting.platform))

    def arguments(
        self, num_steps: int, u: np.ndarray, dtype: Any, rows: slice = slice(None)
    ) -> tuple[Any, ...]:
        """Returns the arguments of `update`, of all rows of the batch or of some."""
        rows_of = jax.tree.map(lambda x: x[rows], (self.batch, u, self.eps))
        floats = self.params, self.params, *rows_of
        cast = jax.tree.map(lambda x: _cast(x, dtype), floats)
        return *cast[:3], np.int32(num_steps), *cast[3:]


def _cast(x: Any, dtype: Any) -> Any:
    is_float = np.issubdtype(x.dtype, np.floating)
    return jnp.asarray(np.asarray(x), dtype) if is_float else jnp.asarray(np.asarray(x))


def _with(model: Model, precision: Any, dtype: str) -> Model:
    net: Any = model.net
    return model._replace(precision=precision, net=net.copy(dtype=jnp.dtype(dtype)))


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate(
        [np.ravel(x).astype("float64") for x in jax.tree.leaves(tree)]
    )


def _exact(
    case: Case, update: Callable[..., Any], num_steps: int, u: np.ndarray
) -> tuple[float, np.ndarray, float]:
    """Returns loss, gradient, and the relative noise of a small batch's gradient."""
    parts = [
        update(*case.arguments(num_steps, u, np.float64, slice(k, None, NUM_PARTS)))
        for k in range(NUM_PARTS)
    ]
    gradients = np.stack([_flat(gradient) for _, gradient in parts])
    mean = gradients.mean(0)
    noise = np.sqrt(((gradients - mean) ** 2).sum(1).mean()) / np.linalg.norm(mean)
    return float(np.mean([loss for loss, _ in parts])), mean, float(noise)


def print_updates(case: Case) -> None:
    """Prints the error of loss and gradient, at i = 1 and over all i."""
    places = [
        (n, title, u)
        for n in STEPS
        for title, u in (
            ("i = 1", np.full(BATCH, 0.5 / n)),
            ("all i", (np.arange(BATCH) + 0.5) / BATCH),
        )
    ]
    with jax.enable_x64(True):
        update = case.update(Setting("gpu", "highest", "highest", "float64"))
        exact = [_exact(case, update, n, u) for n, _, u in places]
    print(f"\n{'N':>5} {'':6}{'loss, exact':>12}  noise of the gradient of 64 images")
    for (n, title, _), (loss, _, noise) in zip(places, exact, strict=True):
        print(f"{n:5} {title:6}{loss:12.3g}{noise:9.2g}")
    head = "  ".join(f"{n} {title}" for n, title, _ in places)
    print(f"loss / exact, relative error of the gradient: {head}")
    for setting in SETTINGS:
        update, cells = case.update(setting), []
        for (n, _, u), (loss, gradient, _) in zip(places, exact, strict=True):
            value, found = update(*case.arguments(n, u, np.float32))
            error = np.linalg.norm(_flat(found) - gradient) / np.linalg.norm(gradient)
            cells.append(f"{float(value) / loss:8.3g} {error:7.2g}")
        print(f"{setting!s} {' |'.join(cells)}", flush=True)


def print_images(case: Case) -> None:
    """Prints the RMS difference of DDIM's images from the exact ones, of 255 levels."""
    for num_steps in DRAWN_STEPS:
        with jax.enable_x64(True):
            model = _with(case.model, "highest", "float64")
            exact = _draw(case, model, num_steps, "gpu", np.float64)
        for setting in SETTINGS:
            if setting.training == setting.target:
                model = _with(case.model, setting.training, setting.dtype)
                images = _draw(case, model, num_steps, setting.platform, np.float32)
                rms = 127.5 * np.sqrt(np.mean((images - exact) ** 2))
                most = 127.5 * np.abs(images - exact).max()
                print(
                    f"N = {num_steps:3} {setting!s} RMS {rms:.2g}, largest {most:.2g}"
                )


def _draw(
    case: Case, model: Model, num_steps: int, platform: str, dtype: Any
) -> np.ndarray:
    def advance(params: Any, z: Any, i: Any) -> Any:
        denoise = bind(model, params)
        return samplers.advance(denoise, model.schedule, z, i=i, num_steps=num_steps)[0]

    advance = jax.jit(emulated(advance, platform))
    params, z = jax.tree.map(lambda x: _cast(x, dtype), (case.params, case.z_1))
    for i in reversed(range(num_steps)):
        z = advance(params, z, jnp.int32(i))
    return np.asarray(z, np.float64)


def main() -> None:
    """Prints the tables of the runs."""
    for workdir in sys.argv[1:]:
        case = Case(workdir)
        print(f"\n{workdir}: output {case.model.parameterization}")
        print_updates(case)
        print_images(case)


if __name__ == "__main__":
    main()
