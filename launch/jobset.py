"""Runs the trainer on Kubernetes (GKE), as a JobSet.

  python -m launch.jobset --name=my-run --image=REGISTRY/progdist:tpu
    --kind=tpu --accelerator=tpu-v4-podslice --topology=2x2x4
    -- --config=NAME --workdir=gs://BUCKET/PATH

On GPUs, --kind=gpu --accelerator=nvidia-h100-80gb. Arguments after -- go to progdist
train. With --claim=my-claim (ReadWriteMany, mounted at /workdir), the workdir is
/workdir/my-run.
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
from typing import Any

from absl import flags

from launch import command_line
from launch.command_line import UsageError

_SPOT = "cloud.google.com/gke-spot"
_WORD = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
# Help, pattern, example. No pattern admits a quote, since the template quotes values.
_TEXTS = {
    # Pods are called NAME-workers-0-0-abcde, in at most 63 characters.
    "name": ("Name of the JobSet.", rf"(?=.{{1,40}}$)[a-z]({_WORD})?", "my-run"),
    "image": ("Image of the trainer.", r"\w[\w./:@-]*", "REGISTRY/progdist:tpu"),
    "claim": (
        "PersistentVolumeClaim; only for a workdir below /workdir.",
        rf"({_WORD})?",
        "my-claim",
    ),
    "service_account": ("Kubernetes service account of the pods.", _WORD, "default"),
    "namespace": ("Namespace of the JobSet.", _WORD, "default"),
    "accelerator": ("GKE's node label.", _WORD, "tpu-v6e-slice or nvidia-h100-80gb"),
    "topology": ("TPU: chips of a slice.", r"[1-9]\d*(x[1-9]\d*){1,2}", "2x2x4"),
    "queue": ("LocalQueue of Kueue; empty for none.", rf"({_WORD})?", "my-queue"),
}
# Dimensions of the topologies of each kind of TPU node (GKE, "Plan TPUs").
_DIMENSIONS = {
    "tpu-v4-podslice": 3,
    "tpu-v5-lite-device": 2,
    "tpu-v5-lite-podslice": 2,
    "tpu-v5p-slice": 3,
    "tpu-v6e-slice": 2,
    "tpu7x": 3,
}
_COMMAND = "python", "-m", "progdist.main"
_LOCK = f'ulimit -l 68719476736 && exec {" ".join(_COMMAND)} "$@"'  # in KiB

FLAGS = flags.FlagValues()
_integer = partial(flags.DEFINE_integer, flag_values=FLAGS)
_bool = partial(flags.DEFINE_bool, flag_values=FLAGS)
for _name, (_help, _, _example) in _TEXTS.items():
    flags.DEFINE_string(_name, "", f"{_help} Example: {_example}.", flag_values=FLAGS)
FLAGS.set_default("namespace", "default")
FLAGS.set_default("service_account", "default")
flags.DEFINE_enum("kind", "tpu", ["tpu", "gpu"], "Kind of nodes.", flag_values=FLAGS)
_integer("slices", 1, "TPU: number of slices.", 1)
_integer("nodes", 1, "GPU: number of nodes.", 1)
flags.DEFINE_enum(
    "network", None, ["tcp"], "GPU: network of several nodes.", flag_values=FLAGS
)
_integer("per_node", 0, "Chips or GPUs per node; 0 for 4 chips or 8 GPUs.", 0)
_integer("restarts", 100, "Maximum number of restarts, preemptions included.", 0)
_integer("ttl", None, "Seconds until a finished JobSet is deleted; unset for never.", 0)
_integer("user", 1000, "User ID in the container.", 0)
_bool("locked_memory", False, "TPU: raise the limit on locked memory, as root.")
_bool("spot", False, "Use spot nodes.")
_bool("dry_run", False, "Only print the manifest.")


def main(argv: list[str]) -> int:
    """Prints the manifest or passes it to kubectl; returns the exit code."""
    arguments = command_line.parse(FLAGS, argv, __doc__, command_line.RESERVED)
    for name, (_, pattern, example) in _TEXTS.items():
        is_used = name != "topology" or FLAGS.kind == "tpu"
        if is_used and not re.fullmatch(pattern, FLAGS[name].value or "", re.ASCII):
            raise UsageError(f"--{name}={FLAGS[name].value}: must look like {example}")
    _check_workdir(command_line.value_of("workdir", arguments))
    if FLAGS.locked_memory and FLAGS.user:
        raise UsageError("--locked_memory: only root can raise the limit; add --user=0")
    manifest = render(arguments)
    command = ["kubectl", "apply", f"--namespace={FLAGS.namespace}", "--filename=-"]
    if FLAGS.dry_run:
        print(f"# {shlex.join(command)}\n{manifest}", end="")
        return 0
    return subprocess.run(command, input=manifest, text=True).returncode


def _check_workdir(workdir: str) -> None:
    if command_line.is_in_bucket(workdir):
        if FLAGS.claim:
            rule = f"needs no claim; omit --claim={FLAGS.claim}"
            raise UsageError(f"--workdir={workdir}: {rule}")
    elif not re.match(r"/workdir/[^/]", workdir):
        rule = "must be gs://BUCKET/PATH or below /workdir, with --claim"
        raise UsageError(f"--workdir={workdir}: {rule}")
    elif not FLAGS.claim:
        raise UsageError(f"--workdir={workdir}: needs the --claim to mount at /workdir")


def render(arguments: Sequence[str]) -> str:
    """Returns the manifest for the flags and these arguments of progdist train."""
    # Kubernetes replaces $(NAME) in arguments; $$ stands for one $.
    escaped = [argument.replace("$", "$$") for argument in arguments]
    of_kind = _values_for_tpu if FLAGS.kind == "tpu" else _values_for_gpu
    values = FLAGS.flag_values_dict() | of_kind([*escaped, "--distributed"])
    values["node_labels"] |= {_SPOT: "true"} if FLAGS.spot else {}
    values |= {
        "labels": {"kueue.x-k8s.io/queue-name": FLAGS.queue} if FLAGS.queue else {},
        "ttl": "" if FLAGS.ttl is None else f"ttlSecondsAfterFinished: {FLAGS.ttl}",
        "is_not_root": json.dumps(FLAGS.user != 0),
        "spot_toleration": f"{{key: {_SPOT}, operator: Exists}}" if FLAGS.spot else "",
        "command": ["sh", "-c", _LOCK, "sh"] if FLAGS.locked_memory else _COMMAND,
        "capabilities": "SYS_RESOURCE" if FLAGS.locked_memory else "",
        "volume": (
            {"persistentVolumeClaim": {"claimName": FLAGS.claim}}
            if FLAGS.claim
            else {"emptyDir": {}}
        ),
    }
    template = string.Template(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
    return template.substitute({name: _yaml(value) for name, value in values.items()})


def _yaml(value: Any) -> Any:
    """Returns the inside of a list or mapping, as JSON, which is YAML, too."""
    return json.dumps(value)[1:-1] if isinstance(value, list | tuple | dict) else value


def _values_for_tpu(arguments: list[str]) -> dict[str, Any]:
    nodes, per_node = _num_nodes_and_chips()
    pool = "cloud.google.com/gke-nodepool"
    return {
        "nodes": nodes,
        "per_node": per_node,
        "device": "google.com/tpu",
        "port": 8482,
        # A slice is a node pool of its own, and gets one job.
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": pool},
        "node_labels": {
            "cloud.google.com/gke-tpu-accelerator": FLAGS.accelerator,
            "cloud.google.com/gke-tpu-topology": FLAGS.topology,
        },
        "platforms": "tpu,cpu",
        "arguments": arguments,
    }


def _num_nodes_and_chips() -> tuple[int, int]:
    accelerator, topology = FLAGS.accelerator, FLAGS.topology
    if accelerator not in _DIMENSIONS:
        known = ", ".join(_DIMENSIONS)
        raise UsageError(f"--accelerator={accelerator}: must be one of {known}")
    sides = [int(side) for side in topology.split("x")]
    if len(sides) != _DIMENSIONS[accelerator]:
        rule = f"must have {_DIMENSIONS[accelerator]} sides for {accelerator}"
        raise UsageError(f"--topology={topology}: {rule}")
    if topology == "2x4" and FLAGS.per_node not in (4, 8):
        rule = "one node of 8 chips or two of 4; choose --per_node=8 or --per_node=4"
        raise UsageError(f"--topology=2x4: {rule}")
    chips = math.prod(sides)
    per_node = FLAGS.per_node or min(4, chips)
    if chips % per_node or (per_node > 4 and topology != "2x4"):
        shape = f"--topology={topology}: its {chips} chips"
        raise UsageError(f"{shape} are not on nodes of --per_node={per_node}")
    return chips // per_node, per_node


def _values_for_gpu(arguments: list[str]) -> dict[str, Any]:
    if FLAGS.nodes > 1 and not FLAGS.network:
        rule = "GPUDirect (TCPX, TCPXO, RDMA) is not set up between nodes"
        choice = "use one node, or --network=tcp for plain TCP, which is slow"
        raise UsageError(f"--nodes={FLAGS.nodes}: {rule}; {choice}")
    first = f"{FLAGS.name}-workers-0-0.{FLAGS.name}"
    own = f"--num_processes={FLAGS.nodes}", "--process_id=$(PROCESS_ID)"
    return {
        "slices": 1,
        "nodes": FLAGS.nodes,
        "per_node": FLAGS.per_node or 8,
        "device": "nvidia.com/gpu",
        "port": 8476,
        "annotations": {},
        "node_labels": {"cloud.google.com/gke-accelerator": FLAGS.accelerator},
        "platforms": "cuda,cpu",
        "arguments": [*arguments, f"--coordinator={first}:8476", *own],
    }


if __name__ == "__main__":
    command_line.exit_with(main, sys.argv)
