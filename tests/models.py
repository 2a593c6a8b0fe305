"""Models of a run that never ran, with parameters at random."""

from pathlib import Path

import jax
import numpy as np

from progdist import checkpoint, model, parallel, preflight
from progdist.config import load_preset, plan_of, to_json
from progdist.sampling import cards

CLASSES = ["cat", "dog", "great owl"]


def write_models(workdir: Path, num_classes: int = 0) -> Path:
    """Writes models of three phases of digits, of 4, 2 and 1 steps."""
    config = load_preset("digits", "smoke")
    config.net.num_classes = num_classes
    config.evaluation.num_samples = 32
    config.evaluation.batch_size = 31  # on one device, which compiles faster
    mesh = parallel.make_mesh(jax.devices()[:1])
    shapes = model.param_shapes(preflight.make_model(config))
    source = preflight.open_data(config.data)
    for phase in plan_of(config):
        path = checkpoint.model_dir(workdir, phase.number, phase.num_steps)
        rng = np.random.default_rng(phase.number)
        params = parallel.place(
            jax.tree.map(
                lambda s, rng=rng: np.float32(0.1) * rng.normal(size=s.shape), shapes
            ),
            mesh,
        )
        params = jax.tree.map(lambda leaf: leaf.astype("float32"), params)
        card = cards.make_card(config, phase, source)
        if num_classes:
            card["class_names"] = CLASSES[:num_classes]
        checkpoint.save_model(path, params, card)
    (workdir / "config.json").write_text(to_json(config))
    return workdir
