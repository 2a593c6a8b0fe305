"""Snapshots and models on disk, by Orbax, with SHA-256 digests.

workdir/checkpoints/<global step>: the newest snapshots of the run, to resume from. For
  the data the step suffices: a batch is a function of seed and step.
workdir/models/phase_03_steps_4: the model of each finished phase, kept for good,
  with a card that describes it.
"""

from progdist.checkpoint.digests import (
    CheckpointError as CheckpointError,
    fingerprint_of as fingerprint_of,
)
from progdist.checkpoint.models import (
    check_model as check_model,
    check_params as check_params,
    clear_leftovers as clear_leftovers,
    find_model as find_model,
    finished_models as finished_models,
    is_model as is_model,
    like as like,
    load_model as load_model,
    model_dir as model_dir,
    read_card as read_card,
    save_model as save_model,
)
from progdist.checkpoint.snapshots import (
    Checkpoints as Checkpoints,
    SaveError as SaveError,
    fingerprint as fingerprint,
    snapshot_steps as snapshot_steps,
)
from progdist.checkpoint.trees import digest_of as digest_of
