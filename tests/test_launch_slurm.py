"""The SLURM job: what is submitted, and when it goes back into the queue."""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests import fake_commands
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
SUBMIT, BATCH = ROOT / "launch" / "slurm.sh", ROOT / "launch" / "slurm.sbatch"
AWKWARD = ["--config=configs/digits.py:smoke", '--workdir=/w/it\'s $(id) "a"\n;b']


def submit(place, *words, check=True):
    environment = fake_commands.make(place, sbatch="")
    return subprocess.run(
        [SUBMIT, *words],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=check,
    )


def start_batch(place, srun, **environment):
    fakes = fake_commands.make(place, srun=srun, scontrol="")
    return subprocess.Popen(
        [BATCH, *AWKWARD],
        env={**fakes, "SLURM_JOB_ID": "17", "PYTHON": "python-of-ours", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_dry_run_prints_what_is_submitted(tmp_path):
    words = ["--nodes=3", "--gpus=4", "--cpus=12", "--partition=gpu", "--account=me"]
    printed = submit(tmp_path, *words, "--dry_run", "--", *AWKWARD).stdout
    assert fake_commands.calls(tmp_path) == []
    submit(tmp_path, *words, "--", *AWKWARD)
    assert fake_commands.calls(tmp_path) == [shlex.split(printed)]
    assert shlex.split(printed) == [
        *("sbatch", "--nodes=3", "--ntasks-per-node=4", "--time=24:00:00"),
        *("--gpus-per-node=4", "--cpus-per-task=12", "--partition=gpu"),
        *("--account=me", str(BATCH), *AWKWARD),
    ]


def test_nodes_without_gpus_ask_for_none(tmp_path):
    words = submit(tmp_path, "--gpus=0", "--tasks=2", "--dry_run", "--", *AWKWARD)
    assert "gpu" not in words.stdout
    assert "--ntasks-per-node=2" in words.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--node=2"], "--node=2: unknown"),
        (["--nodes=0"], "--nodes=0: must look like 2"),
        (["--gpus=0", "--", *AWKWARD], "--tasks=0: must look like 8"),
        (["--time=1 day"], "--time=1 day: must look like 24:00:00"),
        (["--partition=a b"], "--partition=a b: must look like gpu"),
        (["--", "--config=C"], "--workdir=... is missing after --"),
        (["--", "--workdir=/w"], "--config=... is missing after --"),
        (["--", "--config=C", "--workdir=runs"], "must be an absolute path"),
        (["--", "--config=C", "--workdir=gs://b/w"], "mounted on every machine"),
        (["--", *AWKWARD, "--process_id=1"], "--process_id=1: is set by the launcher"),
        (["--", *AWKWARD, "stray"], "'stray' is not a flag"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, message, tmp_path):
    done = submit(tmp_path, *words, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert fake_commands.calls(tmp_path) == []


def test_every_task_sees_all_gpus_and_is_left_to_save(tmp_path):
    job = start_batch(tmp_path, "", SLURM_CPUS_PER_TASK="6")
    assert job.communicate(timeout=60)[0] == ""
    assert job.returncode == 0
    ((name, *options),) = fake_commands.calls(tmp_path)
    assert name == "srun"
    at = options.index("python-of-ours")
    assert set(options[:at]) == {
        *("--label", "--gpu-bind=none", "--kill-on-bad-exit=0", "--wait=600"),
        "--cpus-per-task=6",
    }
    assert options[at + 1 :] == ["-m", "progdist.main", "--distributed", *AWKWARD]


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 130, 134, 137, 143])
def test_a_loss_or_the_time_limit_puts_the_job_back_and_a_mistake_does_not(
    code, tmp_path
):
    job = start_batch(tmp_path, f"sys.exit({code})")
    job.communicate(timeout=60)
    assert job.returncode == code
    requeued = ["scontrol", "requeue", "17"] in fake_commands.calls(tmp_path)
    assert requeued == (code in (5, 134, 137, 143))


def test_the_restarts_have_an_end(tmp_path):
    limits = {"MAX_RESTARTS": "2", "SLURM_RESTART_COUNT": "2"}
    job = start_batch(tmp_path, "sys.exit(5)", **limits)
    assert "not requeued after 2 restarts" in job.communicate(timeout=60)[0]
    assert [name for name, *_ in fake_commands.calls(tmp_path)] == ["srun"]


def test_a_cancelled_job_waits_for_its_tasks_and_stays_cancelled(tmp_path):
    saved = tmp_path / "saved"
    saving = f"while not os.path.exists({str(saved)!r}): time.sleep(0.02)"
    job = start_batch(tmp_path, f"{saving}\nsys.exit(143)")
    wait_until(lambda: fake_commands.calls(tmp_path))
    os.kill(job.pid, signal.SIGTERM)
    assert job.poll() is None
    saved.touch()
    assert "ended with 143, by SLURM" in job.communicate(timeout=60)[0]
    assert job.returncode == 143
    assert [name for name, *_ in fake_commands.calls(tmp_path)] == ["srun"]


def test_slurm_is_asked_to_warn_the_tasks_and_not_the_script():
    text = BATCH.read_text()
    options = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= set(options)
    first_command = text.index("set -euo pipefail")
    assert text.rindex("#SBATCH") < first_command  # after it they would be comments
