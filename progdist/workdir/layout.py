"""Names of the files and folders in a workdir."""

CONFIG = "config.json"
PLAN = "plan.json"
METRICS = "metrics.jsonl"
EVALUATIONS = "eval.jsonl"
STARTS = "starts.jsonl"
SAMPLES = "samples"
FIGURES = "figures"
CHECKPOINTS = "checkpoints"
MODELS = "models"
TENSORBOARD = "tensorboard"
REPORT = "report.html"

FILES = CONFIG, PLAN, METRICS, EVALUATIONS, STARTS, REPORT
DIRECTORIES = SAMPLES, FIGURES, CHECKPOINTS, MODELS, TENSORBOARD
