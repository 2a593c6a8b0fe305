"""Directories of runs that never ran, for the report."""

import json
from pathlib import Path

import numpy as np

from progdist.diffusion import logsnr_bins

N_0 = 16
PHASES = 4  # students with 8, 4, 2, 1 steps
REAL = 200  # "phase" of real images


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluation(phase, role, sampler, num_steps, value, metric="FD-pixels") -> dict:
    return {
        "phase": phase,
        "role": role,
        "sampler": sampler,
        "num_steps": num_steps,
        "trained_steps": num_steps if role == "student" else N_0,
        "metric": metric,
        "value": value,
        "num_samples": 2000,
    }


def evaluations(phases: int) -> list[dict]:
    rows = [evaluation(0, "teacher", "ddim", N_0, 2.0)]
    for k in range(1, phases + 1):
        n = N_0 >> k
        rows.append(evaluation(k, "student", "ddim", n, 2.0 + 1 / n))
        rows.append(evaluation(k, "teacher", "ddim", n, 2.0 + 16 / n))
        rows.append(evaluation(k, "teacher", "ancestral", n, 2.0 + 32 / n))
    return rows


def metrics(phases: int, per_phase: int = 20) -> list[dict]:
    return [
        {
            "global_step": k * per_phase + step,
            "phase": k,
            "step": step,
            "num_steps": N_0 >> k,
            "loss": 0.1 * 2.0**-k / (1 + step),
            "learning_rate": 1e-3 * (1 - step / per_phase),
        }
        for k in range(phases + 1)
        for step in range(per_phase)
    ]


def images(phase: int, n: int = 12, shape=(8, 8, 1)) -> np.ndarray:
    return np.random.default_rng(phase).integers(0, 256, (n, *shape), np.uint8)


def trajectories(steps=(4, 2, 1), k=2, shape=(8, 8, 1)) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(0)
    return {n: rng.normal(size=(n + 1, k, *shape)).astype(np.float32) for n in steps}


def make_workdir(path: Path, phases: int = PHASES, shape=(8, 8, 1)) -> Path:
    folder = path / "samples"
    folder.mkdir()
    write_jsonl(path / "eval.jsonl", evaluations(phases))
    write_jsonl(path / "metrics.jsonl", metrics(phases))
    for k in range(phases + 1):
        arrays = {"num_steps": N_0 >> k, "phase": k}
        drawn = images(k, shape=shape)
        np.savez(folder / f"phase_{k:02d}.npz", images=drawn, **arrays)
        if k:
            drawn = images(100 + k, shape=shape)
            np.savez(folder / f"baseline_{k:02d}.npz", images=drawn, **arrays)
    if phases:
        states = {f"N{n}": z for n, z in trajectories(shape=shape).items()}
        np.savez(folder / "trajectories.npz", **states)
    return path


def write_nearest(workdir: Path, steps=(4, 1), **changes) -> Path:
    """Writes nearest.npz; a change to None leaves an array out."""
    arrays = {"real": images(REAL), "real_distances": np.full(9, 30, np.float32)}
    arrays["num_images"] = np.array(1797)
    for n in steps:
        arrays[f"N{n}_samples"] = images(N_0 // n)
        arrays[f"N{n}_nearest"] = images(REAL + n)
        arrays[f"N{n}_distances"] = np.arange(12, dtype=np.float32)
    arrays = {n: a for n, a in (arrays | changes).items() if a is not None}
    path = workdir / "samples" / "nearest.npz"
    np.savez(path, **arrays)
    return path


def bars(num_steps: int, loss: float) -> list[float | None]:
    """A loss in the last bins only, of which a student of one step has the last."""
    there = range(min(num_steps, len(logsnr_bins.CENTRES)))
    return [
        loss * (1 + k) if k in there else None for k in range(len(logsnr_bins.CENTRES))
    ]
