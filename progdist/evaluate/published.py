"""Progressive distillation as published: Salimans & Ho (2022).

The protocol of its evaluation, and the FID of CIFAR-10 by curve and number of network
calls N. Values without a mark are published as numbers. The others are read off the
figure of the released code, `fid_steps_graph.png`: ≈ to 0.02, > as a bound; – where it
has none.
"""

from typing import Any, Literal

# google-research/google-research, diffusion_distillation: the notebook lists this
# folder and loads imagenet_8 from it, cifar_distill.py loads cifar_original.
CHECKPOINTS = "gs://gresearch/diffusion-distillation"
NUM_SAMPLES = 50_000
PROTOCOL: dict[str, Any] = {
    "metrics": ("fd",),
    "features": ("inception_tf1",),
    "num_samples": NUM_SAMPLES,
    "reference_images": 0,
}
"""Settings of the evaluation: the FID, against all training images."""
Protocol = Literal["published"]
NUM_STEPS = 1, 2, 4, 8, 16, 32, 64, 128, 256, 512
Curve = Literal["distilled", "ddim", "ancestral"]
"""distilled: each student at its own N. ddim, ancestral: the original model with these
samplers, the latter at its best gamma."""

_FID: dict[Curve, str] = {
    "distilled": "9.12 4.51 3.00 2.57 ≈2.46 ≈2.40 ≈2.40 ≈2.38 ≈2.39 ≈2.39",
    "ddim": "– – – >20 ≈9.67 ≈6.00 ≈4.27 ≈3.29 ≈2.80 ≈2.60",
    "ancestral": "– – – >20 ≈9.92 ≈4.54 ≈3.05 ≈2.46 ≈2.37 ≈2.36",
}
FID = {
    (curve, n): text
    for curve, texts in _FID.items()
    for n, text in zip(NUM_STEPS, texts.split(), strict=True)
}
