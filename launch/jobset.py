"""Runs the trainer on Kubernetes (GKE), as a JobSet.

  python -m launch.jobset --name=my-run --image=REGISTRY/progdist:tpu --claim=my-claim
    --kind=tpu --accelerator=tpu-v4-podslice --topology=2x2x4
    -- --config=NAME --workdir=/workdir/my-run

On GPUs, --kind=gpu --accelerator=nvidia-h100-80gb --nodes=2. Arguments after -- go to
progdist train. The claim (ReadWriteMany) is mounted at /workdir.
"""

import json
import math
import re
import shlex
import string
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags

from launch import command_line
from launch.command_line import UsageError

_SPOT = "cloud.google.com/gke-spot"
_WORD = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
# Help, pattern, example. No pattern admits a quote, since the templates quote values.
_TEXTS = {
    # Pods are called NAME-workers-0-0-abcde, in at most 63 characters.
    "name": ("Name of the JobSet.", rf"(?=.{{1,40}}$)[a-z]({_WORD})?", "my-run"),
    "image": ("Image of the trainer.", r"\w[\w./:@-]*", "REGISTRY/progdist:tpu"),
    "claim": ("PersistentVolumeClaim of the workdir.", _WORD, "my-claim"),
    "namespace": ("Namespace of the JobSet.", _WORD, "default"),
    "accelerator": ("GKE's node label.", _WORD, "tpu-v4-podslice or nvidia-h100-80gb"),
    "topology": ("TPU: chips of a slice.", r"[1-9]\d*(x[1-9]\d*){1,2}", "2x2x4"),
}

FLAGS = flags.FlagValues()
_integer = partial(flags.DEFINE_integer, flag_values=FLAGS)
for _name, (_help, _, _example) in _TEXTS.items():
    flags.DEFINE_string(_name, "", f"{_help} Example: {_example}.", flag_values=FLAGS)
FLAGS.set_default("namespace", "default")
flags.DEFINE_enum("kind", "tpu", ["tpu", "gpu"], "Kind of nodes.", flag_values=FLAGS)
_integer("slices", 1, "TPU: number of slices.", 1)
_integer("nodes", 2, "GPU: number of nodes.", 1)
_integer("per_node", 0, "Chips or GPUs per node; 0 for 4 chips or 8 GPUs.", 0)
_integer("restarts", 100, "Maximum number of restarts, preemptions included.", 0)
_integer("user", 1000, "User ID in the container.", 0)
flags.DEFINE_bool("spot", False, "Use spot nodes.", flag_values=FLAGS)
flags.DEFINE_bool("dry_run", False, "Only print the manifest.", flag_values=FLAGS)


def main(argv: list[str]) -> int:
    """Prints the manifest or passes it to kubectl; returns the exit code."""
    arguments = command_line.parse(FLAGS, argv, __doc__, command_line.RESERVED)
    for name, (_, pattern, example) in _TEXTS.items():
        is_used = name != "topology" or FLAGS.kind == "tpu"
        if is_used and not re.fullmatch(pattern, FLAGS[name].value or "", re.ASCII):
            raise UsageError(f"--{name}={FLAGS[name].value}: must look like {example}")
    workdir = command_line.value_of("workdir", arguments)
    if not re.match(r"/workdir/[^/]", workdir):
        raise UsageError(f"--workdir={workdir}: must be below /workdir, the claim")
    manifest = render(arguments)
    command = ["kubectl", "apply", f"--namespace={FLAGS.namespace}", "--filename=-"]
    if FLAGS.dry_run:
        print(f"# {shlex.join(command)}\n{manifest}", end="")
        return 0
    return subprocess.run(command, input=manifest, text=True).returncode


def render(arguments: Sequence[str]) -> str:
    """Returns the manifest for the flags and these arguments of progdist train."""
    nodes, per_node = _num_nodes_and_devices()
    # Kubernetes replaces $(NAME) in arguments; $$ stands for one $.
    escaped = [argument.replace("$", "$$") for argument in arguments]
    values = FLAGS.flag_values_dict() | {
        "nodes": nodes,
        "per_node": per_node,
        "is_not_root": json.dumps(FLAGS.user != 0),
        "spot_label": f'{_SPOT}: "true"' if FLAGS.spot else "",
        "spot_toleration": f"{{key: {_SPOT}, operator: Exists}}" if FLAGS.spot else "",
        "arguments": json.dumps(escaped)[1:-1],  # JSON is YAML, too
    }
    path = Path(__file__).with_name(f"jobset_{FLAGS.kind}.yaml")
    return string.Template(path.read_text(encoding="utf-8")).substitute(values)


def _num_nodes_and_devices() -> tuple[int, int]:
    if FLAGS.kind == "gpu":
        return FLAGS.nodes, FLAGS.per_node or 8
    chips = math.prod(map(int, FLAGS.topology.split("x")))
    per_node = FLAGS.per_node or min(4, chips)
    if chips % per_node:
        shape = f"--topology={FLAGS.topology}: its {chips} chips"
        raise UsageError(f"{shape} are not a multiple of --per_node={per_node}")
    return chips // per_node, per_node


if __name__ == "__main__":
    command_line.exit_with(main, sys.argv)
