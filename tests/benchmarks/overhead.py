"""What the method costs beside its network passes, and how often it is compiled.

    python -m tests.benchmarks.overhead

Four numbers, each a ratio within one run or a count: the time of a distillation step
over that of its parts (two forward passes of the teacher, one forward and backward pass
of the student); of an N-step sampler over N forward passes; what a checkpoint adds to
the updates between two of them; and the compilations of each kind of train step over a
whole run of all rounds. Takes four minutes.
"""

import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from progdist import parallel
from progdist.checkpoint import Checkpoints
from progdist.commands.devices import num_cores
from progdist.config import Config, load_preset
from progdist.data import Batch
from progdist.diffusion.schedules import Cosine
from progdist.model import make_model, param_shapes
from progdist.nets.settings import UNetConfig
from progdist.parallel import REPLICATED, ROWS
from progdist.sampling import draw as sampling
from progdist.trainer import step
from progdist.trainer.run import run
from progdist.trainer.state import (
    Snapshot,
    facts_of,
    init_state,
    make_optimizer,
    tree_of,
)
from tests.benchmarks.timing import Task, alternate, draw_batch

SAMPLING_STEPS = 8
# Name, network, image shape, batch size.
CASES = (
    ("digits", UNetConfig(48, 96, (1,), 1, (), 2, patch_size=2), (8, 8, 1), 64),
    ("32x32 colour", UNetConfig(64, 256, (1, 2, 2), 2, (16,)), (32, 32, 3), 16),
)


class Case:
    """A network on this machine's devices, with a batch and its tasks."""

    def __init__(
        self, net: UNetConfig, shape: tuple[int, int, int], batch_size: int
    ) -> None:
        """Draws parameters and a batch."""
        self.model = make_model(
            net, parameterization="v", schedule=Cosine(), image_shape=shape
        )
        self.net, self.batch_size = self.model.net, batch_size
        self.mesh = parallel.make_mesh()
        generator = np.random.default_rng(0)
        self.params = parallel.place(
            jax.tree.map(
                lambda leaf: 0.02 * generator.standard_normal(leaf.shape, np.float32),
                param_shapes(self.model),
            ),
            self.mesh,
        )
        image = generator.uniform(-1, 1, (batch_size, *shape)).astype(np.float32)
        label = np.zeros(batch_size, np.int32)
        self.batch = parallel.shard(Batch(image, label), self.mesh)
        self.logsnr = parallel.shard(np.zeros(batch_size, np.float32), self.mesh)

    def forward(self) -> Task:
        """One forward pass."""

        def apply(params: Any, z: Any, logsnr: Any) -> Any:
            return self.net.apply({"params": params}, z, logsnr)

        fn = parallel.pmap(apply, self.mesh, (REPLICATED, ROWS, ROWS), ROWS)
        return lambda: jax.block_until_ready(
            fn(self.params, self.batch.image, self.logsnr)
        )

    def forward_backward(self) -> Task:
        """One forward and backward pass, and the mean of the gradient."""

        def gradient(params: Any, z: Any, logsnr: Any) -> Any:
            def loss(params: Any) -> Any:
                output: Any = self.net.apply({"params": params}, z, logsnr)
                return jnp.mean(output**2)

            both = jax.value_and_grad(loss)(parallel.varying(params))
            return parallel.mean(both, parallel.DATA)

        fn = parallel.pmap(
            gradient, self.mesh, (REPLICATED, ROWS, ROWS), (REPLICATED, REPLICATED)
        )
        return lambda: jax.block_until_ready(
            fn(self.params, self.batch.image, self.logsnr)
        )

    def distillation(self) -> Task:
        """One whole update of a round."""
        loss = step.make_distill_loss(
            self.model, self.model, weight="truncated_snr", ratio=2
        )
        optimizer = make_optimizer()
        train_step = step.make_train_step(
            loss,
            optimizer,
            rate=lambda *_: jnp.float32(1e-5),
            ema_rate=lambda _: 1.0,
            mesh=self.mesh,
        )
        state = init_state(self.params, optimizer, keep_ema=False)
        state = parallel.place(state, self.mesh)
        constants = jnp.int32(8), jnp.int32(1000), jax.random.key(0)
        round_ = step.Round(self.params, *parallel.place(constants, self.mesh))

        def update() -> None:
            nonlocal state
            state, metrics = train_step(state, round_, self.batch)
            jax.block_until_ready((state, metrics))

        return update

    def sampling(self) -> Task:
        """A batch of images in SAMPLING_STEPS network calls."""
        sampler = sampling.make_sampler(self.model, self.mesh)
        key = parallel.place(jax.random.key(0), self.mesh)
        indices = parallel.shard(np.arange(self.batch_size, dtype=np.int32), self.mesh)
        label = parallel.shard(np.zeros(self.batch_size, np.int32), self.mesh)
        steps = parallel.place(jnp.int32(SAMPLING_STEPS), self.mesh)
        inputs = key, indices, label, steps
        return lambda: jax.block_until_ready(draw_batch(sampler, self.params, *inputs))


def checkpoint_share(case: Case, update: Task, seconds_an_update: float) -> float:
    """What a checkpoint adds to the time of the updates from one to the next.

    A few seconds of updates, with and without a save beside them, in turns.
    """
    state = init_state(case.params, make_optimizer(), keep_ema=True)
    num_updates, steps = int(4 / seconds_an_update) + 1, itertools.count(1)
    with tempfile.TemporaryDirectory() as directory:
        checkpoints = Checkpoints(Path(directory), keep=2)

        def train() -> None:
            for _ in range(num_updates):
                update()

        def train_and_save() -> None:
            snapshot, step = Snapshot(1, state, case.params), next(steps)
            checkpoints.save(step, tree_of(snapshot), facts_of(snapshot, step))
            train()
            checkpoints.wait()

        wall = alternate(train, train_and_save, most_turns=4, seconds=40)[..., 0]
        checkpoints.close()
    added = float(np.median(wall[:, 1] - wall[:, 0]))
    return added / (Config().save_every * seconds_an_update)


def time_case(case: Case) -> tuple[float, float, float]:
    """Ratios of a step to its parts, a sampler to its passes, and of checkpoints."""
    forward, backward = case.forward(), case.forward_backward()
    update = case.distillation()
    tasks = forward, backward, update, case.sampling()
    wall = alternate(*tasks, most_turns=40, seconds=25)[..., 0]
    parts = 2 * wall[:, 0] + wall[:, 1]
    return (
        float(np.median(wall[:, 2] / parts)),
        float(np.median(wall[:, 3] / (SAMPLING_STEPS * wall[:, 0]))),
        checkpoint_share(case, update, float(np.median(wall[:, 2]))),
    )


def count_traces() -> Counter[str]:
    """Traces of each kind of train step over a run of all rounds."""
    traces: Counter[str] = Counter()
    config = load_preset("digits", "smoke")
    config.distill.start_steps = 64
    makers = {"base": step.make_base_loss, "distill": step.make_distill_loss}

    def counted(kind: str) -> Any:
        def make(*args: Any, **settings: Any) -> step.Loss:
            inner = makers[kind](*args, **settings)

            def loss(*inputs: Any) -> Any:
                traces[kind] += 1
                return inner(*inputs)

            return loss

        return make

    step.make_base_loss, step.make_distill_loss = counted("base"), counted("distill")
    try:
        with tempfile.TemporaryDirectory() as workdir:
            run(config, Path(workdir))
    finally:
        step.make_base_loss = makers["base"]
        step.make_distill_loss = makers["distill"]
    return traces


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_num_cpu_devices", num_cores())
    print(f"{num_cores()} cores; medians of ratios within each turn")
    print(
        f"{'':16}{'step / parts':>14}{f'sampler / {SAMPLING_STEPS} passes':>22}"
        f"{f'checkpoint / {Config().save_every} updates':>28}"
    )
    for name, net, shape, batch_size in CASES:
        ratios = time_case(Case(net, shape, batch_size))
        print(
            f"{name:16}{ratios[0]:14.2f}{ratios[1]:22.2f}{ratios[2]:28.2%}", flush=True
        )
    traces = count_traces()
    print(f"traces over a run: {traces['base']} base, {traces['distill']} distill")


if __name__ == "__main__":
    main()
