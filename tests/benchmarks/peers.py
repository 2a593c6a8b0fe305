"""Speed of the network beside that of PyTorch diffusers, on all cores of this machine.

    python -m tests.benchmarks.peers

Both sides build the same U-Net: 32x32x3, 64 channels, (1, 2, 2), two blocks a level,
attention at 16, batch 16. Turns alternate within one process, so that a neighbour on
the machine slows both. The table gives median seconds and three ratios ours / diffusers
(below 1: ours is faster): of the medians, of the fastest turns, and of the least CPU
time. On a busy machine only the last, on one core, says much:

    taskset -c 0 python -m tests.benchmarks.peers

Needs the extra `bench`, and about two minutes on two free cores.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from progdist import parallel
from progdist.commands.devices import num_cores
from progdist.data import Batch
from progdist.diffusion.schedules import Cosine
from progdist.model import Model, make_model, param_shapes
from progdist.nets.settings import UNetConfig
from progdist.parallel import REPLICATED, ROWS
from progdist.sampling import draw as sampling
from progdist.trainer import step
from progdist.trainer.state import init_state, make_optimizer
from tests.benchmarks.timing import Task, alternate, draw_batch

BATCH, SIZE, SAMPLING_STEPS = 16, 32, 4


class Side(NamedTuple):
    """One side of the comparison: its size, and its tasks, each a blocking call."""

    num_params: int
    forward: Task
    distill: Task
    sample: Task


def our_side() -> Side:
    """The network, train step and sampler of this library."""
    model = make_model(
        UNetConfig(64, 256, (1, 2, 2), 2, (16,)),
        parameterization="x",
        schedule=Cosine(),
        image_shape=(SIZE, SIZE, 3),
    )
    mesh = parallel.make_mesh()
    generator = np.random.default_rng(0)
    image = generator.uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype("float32")
    logsnr = np.linspace(-5, 5, BATCH, dtype="float32")
    batch = parallel.shard(Batch(image, np.zeros(BATCH, "int32")), mesh)
    params = parallel.place(_random_params(model, generator), mesh)
    forward = parallel.pmap(
        lambda params, z, logsnr: model.net.apply({"params": params}, z, logsnr),
        mesh,
        (REPLICATED, ROWS, ROWS),
        ROWS,
    )
    sharded = parallel.shard(logsnr, mesh)
    return Side(
        sum(leaf.size for leaf in jax.tree.leaves(params)),
        lambda: jax.block_until_ready(forward(params, batch.image, sharded)),
        _our_distillation(model, mesh, params, batch),
        _our_sampling(model, mesh, params),
    )


def _random_params(model: Model, generator: np.random.Generator) -> Any:
    return jax.tree.map(
        lambda leaf: 0.02 * generator.standard_normal(leaf.shape).astype("float32"),
        param_shapes(model),
    )


def _our_distillation(model: Model, mesh: Any, params: Any, batch: Any) -> Task:
    loss = step.make_distill_loss(model, model, weight="truncated_snr", ratio=2)
    optimizer = make_optimizer()
    train_step = step.make_train_step(
        loss,
        optimizer,
        rate=lambda *_: jnp.float32(1e-5),
        ema_rate=lambda _: 1.0,
        mesh=mesh,
    )
    state = parallel.place(init_state(params, optimizer, keep_ema=False), mesh)
    round_ = step.Round(params, jnp.int32(8), jnp.int32(1000), jax.random.key(0))
    round_ = round_._replace(**_replicated(round_, mesh))

    def distill() -> None:
        nonlocal state
        state, metrics = train_step(state, round_, batch)
        # The next step starts only when all devices have ended this one.
        jax.block_until_ready((state, metrics))

    return distill


def _replicated(round_: step.Round, mesh: Any) -> dict[str, Any]:
    names = ("num_steps", "num_updates", "key")
    return {name: parallel.place(getattr(round_, name), mesh) for name in names}


def _our_sampling(model: Model, mesh: Any, params: Any) -> Task:
    sampler = sampling.make_sampler(model, mesh)
    key = parallel.place(jax.random.key(0), mesh)
    indices = parallel.shard(np.arange(BATCH), mesh)
    label = parallel.shard(np.zeros(BATCH, np.int32), mesh)
    num_steps = parallel.place(jnp.int32(SAMPLING_STEPS), mesh)
    inputs = key, indices, label, num_steps
    return lambda: jax.block_until_ready(draw_batch(sampler, params, *inputs))


def peer_side() -> Side:
    """The same with torch and diffusers, as their documentation has it."""
    import torch  # pyright: ignore

    torch.set_num_threads(num_cores())
    teacher = _peer_network().eval().requires_grad_(False)
    student = _peer_network()
    image = torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1
    t = torch.arange(BATCH) * 10

    def forward() -> None:
        with torch.inference_mode():
            teacher(image, t)

    return Side(
        sum(p.numel() for p in student.parameters()),
        forward,
        _peer_distillation(teacher, student, image, t),
        _peer_sampling(teacher),
    )


def _peer_network() -> Any:
    from diffusers import UNet2DModel  # pyright: ignore

    return UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(64, 128, 128),
        layers_per_block=2,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=128,
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
    )


def _peer_distillation(teacher: Any, student: Any, image: Any, t: Any) -> Task:
    """Two DDIM steps of the teacher by `DDIMScheduler`'s rule, then one of Adam."""
    import torch  # pyright: ignore

    optimizer = torch.optim.Adam(student.parameters(), 1e-5)
    angle = (t / 1000 + 1e-3)[:, None, None, None] * torch.pi / 2

    def distill() -> None:
        with torch.no_grad():
            z = angle.cos() * image + angle.sin() * torch.randn_like(image)
            x = teacher(z, t).sample
            eps = (z - angle.cos() * x) / angle.sin()
            z = (angle / 2).cos() * x + (angle / 2).sin() * eps
            target = teacher(z, t // 2).sample
        loss = (student(z, t).sample - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return distill


def _peer_sampling(network: Any) -> Task:
    import torch  # pyright: ignore
    from diffusers import DDIMScheduler  # pyright: ignore

    scheduler = DDIMScheduler(prediction_type="sample")
    scheduler.set_timesteps(SAMPLING_STEPS)

    def sample() -> None:
        z = torch.randn(BATCH, 3, SIZE, SIZE)
        with torch.inference_mode():
            for t in scheduler.timesteps:
                z = scheduler.step(network(z, t).sample, t, z).prev_sample

    return sample


def main() -> None:
    """Prints the table."""
    try:
        import diffusers  # noqa: F401  # pyright: ignore
        import torch  # noqa: F401  # pyright: ignore
    except ImportError as error:
        raise SystemExit(
            f"{error}: pip install torch==2.13.0, then 'progdist[bench]'"
        ) from None
    jax.config.update("jax_num_cpu_devices", num_cores())
    ours, peer = our_side(), peer_side()
    print(f"{num_cores()} cores; parameters: {ours.num_params:,} ours, ", end="")
    print(f"{peer.num_params:,} diffusers")
    print(f"{'':18}{'ours':>8}{'diffusers':>11}{'ratio':>8}{'fastest':>9}{'CPU':>7}")
    for name in ("forward", "distill", "sample"):
        seconds = alternate(getattr(ours, name), getattr(peer, name))
        print(_row(f"{name}, s", seconds), flush=True)
    rates = BATCH / np.median(seconds[..., 0], axis=0)
    print(f"{f'{SAMPLING_STEPS}-step images/s':18}{rates[0]:8.1f}{rates[1]:11.1f}")


def _row(label: str, seconds: np.ndarray) -> str:
    median, fastest = np.median(seconds[..., 0], axis=0), seconds.min(axis=0)
    ratios = median[0] / median[1], *(fastest[0] / fastest[1])
    columns = f"{median[0]:8.3f}{median[1]:11.3f}"
    return f"{label:18}{columns}{ratios[0]:8.2f}{ratios[1]:9.2f}{ratios[2]:7.2f}"


if __name__ == "__main__":
    main()
