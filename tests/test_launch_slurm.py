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


def start_batch(place, srun, arguments=AWKWARD, **environment):
    fakes = fake_commands.make(place, srun=srun, scontrol="")
    return subprocess.Popen(
        [BATCH, *arguments],
        cwd=place,
        env={**fakes, "SLURM_JOB_ID": "17", "PYTHON": "python-of-ours", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def requeued(place):
    return fake_commands.calls(place).count(["scontrol", "requeue", "17"])


def test_the_dry_run_prints_what_is_submitted(tmp_path):
    words = ["--nodes=3", "--mem=0", "--gpus=4", "--cpus=12", "--exclusive"]
    words += ["--constraint=a100&ib", "--time=2-0"]
    printed = submit(tmp_path, *words, "--dry_run", "--", *AWKWARD).stdout
    assert fake_commands.calls(tmp_path) == []
    submit(tmp_path, *words, "--", *AWKWARD)
    assert fake_commands.calls(tmp_path) == [shlex.split(printed)]
    assert shlex.split(printed) == [
        *("sbatch", "--nodes=3", "--ntasks-per-node=4", "--cpus-per-task=12"),
        *("--gpus-per-node=4", "--mem=0", "--exclusive", "--constraint=a100&ib"),
        *("--time=2-0", str(BATCH), *AWKWARD),
    ]


def test_nodes_without_gpus_ask_for_none_and_a_task_for_more_than_a_core(tmp_path):
    words = submit(tmp_path, "--gpus=0", "--tasks=2", "--dry_run", "--", *AWKWARD)
    assert "gpu" not in words.stdout
    assert "--ntasks-per-node=2 --cpus-per-task=8" in words.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["node=2"], "node=2: unknown"),
        (["--nodes=0"], "--nodes=0: must look like 2"),
        (["--gpus=0", "--", *AWKWARD], "--tasks=0: must look like 8"),
        (["--cpus=", "--", *AWKWARD], "--cpus=: must look like 8"),
        (["--gpus-per-node=4", "--", *AWKWARD], "--gpus-per-node=4: is set by --gpus"),
        (["--ntasks=4", "--", *AWKWARD], "--ntasks=4: is set by --gpus, --tasks and"),
        (["--", "--config=C"], "--workdir=... is missing after --"),
        (["--", "--workdir=/w"], "--config=... is missing after --"),
        (["--", "--config=C", "--workdir=runs"], "or an absolute path"),
        (["--", "--config=C", "--workdir=s3://b/w"], "must be gs://BUCKET/PATH or an"),
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
    assert job.communicate(timeout=60)[0] == "launch: ended with 0\n"
    assert job.returncode == 0
    ((name, *options),) = fake_commands.calls(tmp_path)
    assert name == "srun"
    at = options.index("python-of-ours")
    assert set(options[:at]) == {
        *("--label", "--gpu-bind=none", "--kill-on-bad-exit=0", "--wait=600"),
        "--cpus-per-task=6",
    }
    assert options[at + 1 :] == ["-m", "progdist.main", "--distributed", *AWKWARD]


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 130, 134, 137, 138, 139, 143])
def test_a_loss_or_the_time_limit_puts_the_job_back_and_a_mistake_does_not(
    code, tmp_path
):
    job = start_batch(tmp_path, f"sys.exit({code})")
    job.communicate(timeout=60)
    assert job.returncode == code
    assert requeued(tmp_path) == (code in (5, 134, 138, 143))


def restart(place, checkpoint=None, workdir="", **environment):
    """A run of the job that ends with 5, after it wrote a checkpoint; its output."""
    workdir = workdir or f"{place}/w"
    arguments = ["--config=C", "--workdir=/not/this", f"--workdir={workdir}"]
    path = f"{place}/w/checkpoints/{checkpoint}"
    write = f"os.makedirs({path!r}, exist_ok=True)\n" if checkpoint else ""
    job = start_batch(place, f"{write}sys.exit(5)", arguments, **environment)
    return job.communicate(timeout=60)[0]


def test_restarts_without_a_new_checkpoint_have_an_end(tmp_path):
    outputs = [restart(tmp_path, 9, MAX_RESTARTS="2") for _ in range(4)]
    assert requeued(tmp_path) == 3  # the first start wrote one, two did not
    assert "not requeued: 2 restarts without a new checkpoint" in outputs[-1]
    restart(tmp_path, 9, MAX_RESTARTS="2")  # by hand: counts anew
    assert requeued(tmp_path) == 4


def test_checkpoints_are_compared_as_numbers_and_a_damaged_one_is_none(tmp_path):
    for checkpoint in (9, 10, 11):
        restart(tmp_path, checkpoint, MAX_RESTARTS="0")
    assert requeued(tmp_path) == 3
    restart(tmp_path, "12.damaged", MAX_RESTARTS="0")
    assert requeued(tmp_path) == 3


def test_checkpoints_in_a_bucket_are_progress_too(tmp_path):
    listed = f"{str(tmp_path)!r} + '/w/checkpoints'"
    body = f"for n in os.listdir({listed}): print(f'{{words[2]}}{{n}}/')"
    fake_commands.make(tmp_path, gcloud=body)
    options = {"workdir": "gs://b/w", "MAX_RESTARTS": "0"}
    for checkpoint in (9, 10):
        restart(tmp_path, checkpoint, **options)
    assert requeued(tmp_path) == 2
    restart(tmp_path, 10, **options)
    assert requeued(tmp_path) == 2
    call = ["gcloud", "storage", "ls", "gs://b/w/checkpoints/"]
    assert call in fake_commands.calls(tmp_path)


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
    assert {"--signal=USR1@120", "--requeue", "--open-mode=append"} <= set(options)
    assert 128 + signal.SIGUSR1 == 138  # in the list of codes above
    first_command = text.index("set -euo pipefail")
    assert text.rindex("#SBATCH") < first_command  # after it they would be comments
