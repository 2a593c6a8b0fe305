"""Models of a run that never ran, with parameters at random."""

from pathlib import Path

import jax
import numpy as np

from configs.digits import get_config
from progdist import checkpoint, model, parallel, preflight
from progdist.config import to_json


def write_models(workdir: Path, num_classes: int = 0) -> Path:
    """Writes models of three phases of digits, of 4, 2 and 1 steps."""
    config = get_config("smoke")
    config.net.num_classes = num_classes
    config.evaluation.num_samples = 32
    config.evaluation.batch_size = 31  # on one device, which compiles faster
    mesh = parallel.make_mesh(jax.devices()[:1])
    shapes = model.param_shapes(preflight.make_model(config))
    for phase, num_steps in enumerate((4, 2, 1)):
        path = checkpoint.model_dir(workdir, phase, num_steps)
        rng = np.random.default_rng(phase)
        params = parallel.place(
            jax.tree.map(
                lambda s, rng=rng: np.float32(0.1) * rng.normal(size=s.shape), shapes
            ),
            mesh,
        )
        params = jax.tree.map(lambda leaf: leaf.astype("float32"), params)
        facts = {"num_steps": num_steps, "schedule": "cosine", "output": "v"}
        checkpoint.save_model(path, params, facts)
    (workdir / "config.json").write_text(to_json(config))
    return workdir
