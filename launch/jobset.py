"""Runs the trainer on Kubernetes (GKE), as a JobSet.

  python -m launch.jobset --name=my-run --image=REGISTRY/progdist:tpu --claim=my-claim
    --kind=tpu --accelerator=tpu-v4-podslice --topology=2x2x4
    -- --config=configs/X.py --workdir=/workdir/my-run
  python -m launch.jobset --name=my-run --image=REGISTRY/progdist:cuda --claim=my-claim
    --kind=gpu --accelerator=nvidia-h100-80gb --nodes=2
    -- --config=configs/X.py --workdir=/workdir/my-run

What stands after -- goes to progdist.main. --claim is a PersistentVolumeClaim that all
nodes can write to (ReadWriteMany), mounted at /workdir. --dry_run prints what would be
given to kubectl apply.
"""

import json
import math
import re
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from launch import command_line
from launch.command_line import UsageError

FLAGS = flags.FlagValues()


def _define(name: str, default: str, about: str) -> flags.FlagHolder[str]:
    return flags.DEFINE_string(name, default, about, flag_values=FLAGS)


def _define_number(
    name: str, default: int, about: str, lowest: int = 1
) -> flags.FlagHolder[int]:
    return flags.DEFINE_integer(name, default, about, lowest, flag_values=FLAGS)


_NAME = _define("name", "", "Of the JobSet.")
_IMAGE = _define("image", "", "Made with launch/Dockerfile.")
_CLAIM = _define("claim", "", "PersistentVolumeClaim of the workdir.")
_NAMESPACE = _define("namespace", "default", "Where all this is.")
_KIND = flags.DEFINE_enum("kind", "tpu", ["tpu", "gpu"], "Of nodes.", flag_values=FLAGS)
_ACCELERATOR = _define("accelerator", "", "As GKE labels its nodes.")
_TOPOLOGY = _define("topology", "", "Of a slice, in chips, such as 2x2x4; for TPUs.")
_SLICES = _define_number("slices", 1, "How many slices; for TPUs.")
_NODES = _define_number("nodes", 2, "How many nodes; for GPUs.")
_PER_NODE = _define_number(
    "per_node", 0, "Chips or GPUs of a node; 0: 4 chips, or 8 GPUs.", 0
)
_SPOT = flags.DEFINE_bool("spot", False, "Use spot nodes.", flag_values=FLAGS)
_RESTARTS = _define_number("restarts", 100, "At most so many, by preemptions too.", 0)
_USER = _define_number("user", 1000, "Number of the user in the container.", 0)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print.", flag_values=FLAGS)

_WORD = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_PORT = 8476
_OURS = "distributed", "coordinator", "num_processes", "process_id"


def main(argv: list[str]) -> int:
    """Prints the manifest, or gives it to kubectl; returns the exit code."""
    flags_of_ours, arguments = command_line.split(argv)
    command_line.parse(FLAGS, flags_of_ours, __doc__)
    _check_names()
    command_line.check_arguments(arguments, _OURS)
    workdir = command_line.value_of("workdir", arguments) or ""
    if not re.match(r"/workdir/[^/]", workdir):
        raise UsageError(f"--workdir={workdir}: must be below /workdir, the claim")
    manifest = render(_KIND.value, make_values(arguments))
    command = ["kubectl", "apply", f"--namespace={_NAMESPACE.value}", "--filename=-"]
    if _DRY_RUN.value:
        print(f"# {command_line.quoted(command, {})}\n{manifest}", end="")
        return 0
    return subprocess.run(command, input=manifest, text=True).returncode


def render(kind: str, values: Mapping[str, Any]) -> str:
    """Returns the manifest, with every value as JSON, of which YAML is a superset."""
    path = Path(__file__).with_name(f"jobset_{kind}.yaml")
    as_json = {key: json.dumps(value) for key, value in values.items()}
    return string.Template(path.read_text(encoding="utf-8")).substitute(as_json)


def make_values(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns what the templates name, from the flags.

    Raises:
      UsageError: if the topology does not fit the nodes.
    """
    is_tpu = _KIND.value == "tpu"
    chips = _num_chips() if is_tpu else 0
    per_node = _PER_NODE.value or (min(4, chips) if is_tpu else 8)
    if chips % per_node:
        raise UsageError(
            f"--topology={_TOPOLOGY.value}: its {chips} chips are not a multiple of "
            f"--per_node={per_node}"
        )
    nodes = chips // per_node if is_tpu else _NODES.value
    spot = "cloud.google.com/gke-spot"
    selector = {"cloud.google.com/gke-accelerator": _ACCELERATOR.value}
    if is_tpu:
        selector = {
            "cloud.google.com/gke-tpu-accelerator": _ACCELERATOR.value,
            "cloud.google.com/gke-tpu-topology": _TOPOLOGY.value,
        }
    toleration = {
        "key": spot,
        "operator": "Equal",
        "value": "true",
        "effect": "NoSchedule",
    }
    return {
        "name": _NAME.value,
        "image": _IMAGE.value,
        "claim": _CLAIM.value,
        "restarts": _RESTARTS.value,
        "slices": _SLICES.value,
        "nodes": nodes,
        "per_node": per_node,
        "node_selector": selector | ({spot: "true"} if _SPOT.value else {}),
        "tolerations": [toleration] if _SPOT.value else [],
        "user": _USER.value,
        "is_not_root": _USER.value != 0,
        "arguments": _make_arguments(arguments, nodes, is_tpu),
    }


def _make_arguments(arguments: Sequence[str], nodes: int, is_tpu: bool) -> list[str]:
    # Kubernetes replaces $(NAME) in arguments; $$ stands for one $.
    ours = ["--distributed"]
    if not is_tpu:
        first = f"{_NAME.value}-workers-0-0.{_NAME.value}"
        ours += [f"--coordinator={first}:{_PORT}", f"--num_processes={nodes}"]
        ours += ["--process_id=$(PROCESS_ID)"]
    return [argument.replace("$", "$$") for argument in arguments] + ours


def _num_chips() -> int:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", _TOPOLOGY.value):
        raise UsageError(f"--topology={_TOPOLOGY.value}: must look like 2x2x4")
    return math.prod(map(int, _TOPOLOGY.value.split("x")))


def _check_names() -> None:
    # Pods are called NAME-workers-0-0-abcde, of at most 63 characters.
    rules = {
        "name": (rf"(?=.{{1,40}}$)[a-z]({_WORD})?", "my-run"),
        "image": (r"[\w][\w./:@-]*", "REGISTRY/progdist:tpu"),
        "claim": (_WORD, "my-claim"),
        "namespace": (_WORD, "default"),
        "accelerator": (_WORD, "tpu-v4-podslice or nvidia-h100-80gb"),
    }
    for name, (rule, example) in rules.items():
        value = str(FLAGS[name].value)
        if not re.fullmatch(rule, value, re.ASCII):
            raise UsageError(f"--{name}={value}: must look like {example}")


if __name__ == "__main__":
    command_line.exit_with(main, sys.argv)
