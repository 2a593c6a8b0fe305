"""CIFAR-10's network on one accelerator, beside PyTorch diffusers' of the same size.

    python -m tests.benchmarks.accelerator --precision=highest --dtype=bfloat16
    python -m tests.benchmarks.accelerator --peer

Milliseconds of an update, images per second, utilisation and peak memory: of the base
phase and of distillation at batch 128, and of sampling in 8 steps. The precision is
that of all products: by default what JAX chooses on the device, TF32 on recent NVIDIA
GPUs. With --peer, updates of diffusers' UNet2DModel of 60.0 M parameters, run eagerly,
in TF32, float32 ("highest") or under autocast to bfloat16; for it, install torch and
`progdist[bench]`. Each program of ours compiles for most of a minute.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from progdist import parallel
from progdist.config import load_preset
from progdist.data import Batch
from progdist.model import Model, init_params
from progdist.preflight import make_model
from progdist.sampling.draw import make_sampler
from progdist.trainer import step
from progdist.trainer.state import init_state, make_optimizer
from tests.benchmarks.timing import draw_batch

BATCH, SAMPLES, STEPS, TURNS, CALLS = 128, 256, 8, 3, 12


class Task(NamedTuple):
    """A call to time, the wait for its result, and the images that it processes."""

    title: str
    call: Callable[[], Any]
    wait: Callable[[Any], Any]
    num_images: int


def measure(task: Task) -> None:
    """Prints the median time of a call, which has been compiled."""
    seconds = []
    for _ in range(TURNS):
        start, result = time.perf_counter(), None
        for _ in range(CALLS):
            result = task.call()
        task.wait(result)
        seconds.append((time.perf_counter() - start) / CALLS)
    median = float(np.median(seconds))
    rate = task.num_images / median
    print(f"{task.title}: {1000 * median:.1f} ms, {rate:,.0f} images/s", flush=True)


def our_tasks(precision: str, dtype: str) -> Iterator[Task]:
    """Yields the tasks of this library; each compiles on its first call."""
    config, mesh = load_preset("cifar10"), parallel.make_mesh()
    config.net = dataclasses.replace(config.net, dtype=dtype)
    model = make_model(config)._replace(precision=precision)
    params = init_params(model, 0, mesh)
    image = np.random.default_rng(0).uniform(-1, 1, (BATCH, *model.image_shape))
    batch = Batch(image.astype("float32"), np.zeros(BATCH, "int32"))
    batch = parallel.shard(batch, mesh)
    for kind in ("base", "distill"):
        update = _update(model, mesh, params, kind, batch)
        yield Task(f"{kind} update", update, jax.block_until_ready, BATCH)
    sampler = make_sampler(model, mesh)
    key = parallel.place(jax.random.key(0), mesh)
    indices = parallel.shard(np.arange(SAMPLES, dtype=np.int32), mesh)
    label = parallel.shard(np.zeros(SAMPLES, np.int32), mesh)
    steps = parallel.place(jnp.int32(STEPS), mesh)

    def sample() -> Any:
        return draw_batch(sampler, params, key, indices, label, steps)

    title = f"{STEPS}-step samples"
    yield Task(title, sample, jax.block_until_ready, SAMPLES)


def _update(
    model: Model, mesh: Any, params: Any, kind: str, batch: Any
) -> Callable[[], Any]:
    """Returns an update of a phase of this kind; it carries its state along."""
    weight = "truncated_snr"
    loss = (
        step.make_base_loss(model, weight=weight)
        if kind == "base"
        else step.make_distill_loss(model, model, weight=weight, ratio=2)
    )
    optimizer = make_optimizer()
    train_step = step.make_train_step(
        loss,
        optimizer,
        rate=lambda *_: jnp.float32(1e-4),
        ema_rate=lambda _: 1e-3,
        mesh=mesh,
    )
    copied = jax.tree.map(jnp.copy, params)
    state = parallel.place(init_state(copied, optimizer, keep_ema=True), mesh)
    constants = jnp.int32(64), jnp.int32(1000), jax.random.key(0)
    teacher = params if kind == "distill" else ()
    round_ = step.Round(teacher, *parallel.place(constants, mesh))

    def update() -> Any:
        nonlocal state
        state, metrics = train_step(state, round_, batch)
        return state, metrics

    return update


def _peak() -> float:
    """Returns the peak of the device's memory in GiB; NaN where it is not known."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", float("nan")) / 2**30


def peer_tasks(precision: str, dtype: str) -> Iterator[Task]:
    """Yields the tasks of diffusers."""
    import torch  # pyright: ignore
    from diffusers import UNet2DModel  # pyright: ignore

    torch.backends.cuda.matmul.allow_tf32 = precision != "highest"
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    torch.backends.cudnn.benchmark = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher, student = (
        UNet2DModel(
            sample_size=32,
            block_out_channels=(256,) * 3,
            layers_per_block=3,
            down_block_types=("ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 2),
            up_block_types=(*["AttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D"),
            attention_head_dim=256,
            resnet_time_scale_shift="scale_shift",
            downsample_type="resnet",
            upsample_type="resnet",
        ).to(device)
        for _ in range(2)
    )
    teacher.eval().requires_grad_(False)
    image = torch.rand(BATCH, 3, 32, 32, device=device) * 2 - 1
    t = torch.arange(BATCH, device=device)
    angle = (t / 1000 + 1e-3)[:, None, None, None] * torch.pi / 2
    optimizer = torch.optim.AdamW(student.parameters(), 1e-4, fused=device == "cuda")

    def noisy() -> Any:
        return angle.cos() * image + angle.sin() * torch.randn_like(image)

    def target(z: Any) -> Any:
        x = teacher(z, t).sample
        eps = (z - angle.cos() * x) / angle.sin()
        return teacher((angle / 2).cos() * x + (angle / 2).sin() * eps, t // 2).sample

    def update(is_distilling: bool) -> None:
        z, is_low = noisy(), dtype == "bfloat16"
        with torch.autocast(device, torch.bfloat16, enabled=is_low):
            with torch.no_grad():
                expected = target(z) if is_distilling else image
            output = student(z, t).sample
        loss = (output.float() - expected).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for kind in ("base", "distill"):
        call = functools.partial(update, kind == "distill")
        yield Task(f"diffusers: {kind} update", call, wait, BATCH)


def main() -> None:
    """Prints a line for each task, and the peak memory of all so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--precision", default="default")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    tasks = (peer_tasks if args.peer else our_tasks)(args.precision, args.dtype)
    print(f"precision {args.precision}, dtype {args.dtype}, batch {BATCH}")
    for task in tasks:
        task.wait(task.call())
        measure(task)
        if not args.peer:
            print(f"peak memory {_peak():.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
