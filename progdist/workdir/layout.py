"""Names of the files and folders in a workdir, and in an export."""

CONFIG = "config.json"
PLAN = "plan.json"
METRICS = "metrics.jsonl"
EVALUATIONS = "eval.jsonl"
STARTS = "starts.jsonl"
SAMPLES = "samples"
NEAREST = "nearest.npz"  # in samples
FIGURES = "figures"
CHECKPOINTS = "checkpoints"
MODELS = "models"
DISTANCES = "distances.jsonl"  # of a model, in its directory
TENSORBOARD = "tensorboard"
WANDB = "wandb"
PROFILE = "profile"
MEASURING = "measuring"  # unfinished measurements
REPORT = "report.html"

FILES = CONFIG, PLAN, METRICS, EVALUATIONS, STARTS, REPORT
DIRECTORIES = (
    SAMPLES,
    FIGURES,
    CHECKPOINTS,
    MODELS,
    TENSORBOARD,
    WANDB,
    PROFILE,
    MEASURING,
)

# Files and folders of an export.
JAX_SAMPLER, ONNX_SAMPLER = "sampler.jax.zip", "sampler.onnx"
PARAMS, HUB, DIFFUSERS = "params.safetensors", "hub", "diffusers"
EXPORTS = JAX_SAMPLER, ONNX_SAMPLER, PARAMS, HUB, DIFFUSERS
