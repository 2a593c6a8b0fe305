"""Cloud TPU slices: what is asked of gcloud, and what the workers then do."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests import fake_commands
from tests.waiting import text_of, wait_until, write_whole

ROOT = Path(__file__).parents[1]
SLICE = ["--name=my-slice", "--zone=us-central2-b"]
KIND = ["--type=v4-32", "--version=tpu-ubuntu2204-base"]
NFS = ["--nfs=10.0.0.2:/share"]
ARGUMENTS = [
    "--config=configs/digits.py",
    '--workdir=/mnt/progdist/it\'s $(id) "a"\n;b',
]
MAIN = ["--", *ARGUMENTS]
BUCKET = ["--", "--config=configs/digits.py", "--workdir=gs://my-bucket/runs/it's"]
# A slice of two workers: each has a home directory here, and a shell for --command.
GCLOUD = r"""
import subprocess
place = os.environ["PLACE"]
homes = [place + "/home0", place + "/home1"]
def flag(name): return next(w.split("=", 1)[1] for w in words if w.startswith(name))
group, verb = words[2:4]
if verb == "list": print(open(f"{place}/{group}").read())
elif verb == "scp" and "--worker=all" in words:
    for home in homes: subprocess.run(["cp", words[4], home], check=True)
elif verb == "ssh":
    for home in homes[: 1 if flag("--worker") == "0" else 2]:
        shell = ["bash", "-c", flag("--command")]
        done = subprocess.run(shell, cwd=home, env={**os.environ, "HOME": home})
        if done.returncode: sys.exit(1)
"""
# Stands in for the trainer: ends with the next code of its worker, if there is one
# after some seconds (2:5), or waits for SIGTERM.
TRAINER = r"""
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
place, home = os.environ["PLACE"], os.path.basename(os.environ["HOME"])
write_whole(place + "/arguments", json.dumps(words))
codes = open(place + "/codes-" + home).read().split()
write_whole(place + "/codes-" + home, " ".join(codes[1:]))
seconds, _, code = codes[0].rpartition(":")
time.sleep(float(seconds or 0))
sys.exit(int(code))
"""
UV = """
if words[0] == "venv":
    os.makedirs(".venv/bin")
    os.system("cp $PLACE/bin/trainer .venv/bin/python")
"""
PIP = 'os.system("mkdir -p ~/.local/bin && cp $PLACE/bin/uv ~/.local/bin/uv")'
GIT = 'os.system("tar -czf " + words[2].split("=")[1] + " launch")'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A slice that is there, and nothing on it; trainers are ended afterwards."""
    fakes = {"gcloud": GCLOUD, "git": GIT, "python3": PIP, "uv": UV, "trainer": TRAINER}
    made = fake_commands.make(tmp_path, **fakes, mountpoint="", sudo="")
    monkeypatch.setenv("PATH", made["PATH"])
    monkeypatch.setenv("PLACE", str(tmp_path))
    (tmp_path / "tpu-vm").write_text("READY")
    (tmp_path / "queued-resources").write_text("ACTIVE")
    for home in ("home0", "home1"):
        (tmp_path / home).mkdir()
        (tmp_path / f"codes-{home}").write_text("60:0")
    yield tmp_path
    for pid in tmp_path.glob("home*/.progdist/pid"):
        if state(pid.parents[1]) == "running" and text_of(pid).strip():
            os.kill(int(pid.read_text()), signal.SIGKILL)


def tpu_vm(*words, check=True):
    command = [ROOT / "launch" / "tpu_vm.sh", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=check
    )


def worker(home, *words):
    return subprocess.run(
        [home / "progdist" / "launch" / "tpu_worker.sh", *words],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )


def state(home):
    return worker(home, "state").stdout.strip().removeprefix("progdist: ")


def of_gcloud_and_git(place, keep=False):
    calls = fake_commands.calls(place)
    if not keep:
        (place / "calls").unlink(missing_ok=True)
    return [call for call in calls if call[0] in ("gcloud", "git")]


@pytest.mark.parametrize(
    "words",
    [
        ["create", *KIND],
        ["create", *KIND, "--spot", "--internal", "--project=mine"],
        ["create", *KIND, "--queued", "--reserved"],
        ["install"],
        ["install", "--internal", "--python=3.13"],
        ["run", *NFS, *MAIN],
        ["run", *NFS, "--delete_at_end", "--spot", "--max_hours=20", *MAIN],
        ["run", "--delete_at_end", *BUCKET],
        ["status", "--spot"],
        ["log"],
        ["stop"],
        ["fetch", "--from=/mnt/progdist/W", "--to=/tmp/it's here"],
        ["delete"],
        ["delete", "--spot"],
    ],
)
def test_the_dry_run_prints_what_is_run(words, place, monkeypatch):
    fake_commands.make(place, gcloud="")
    command, *rest = words
    printed = tpu_vm(command, *SLICE, "--dry_run", *rest).stdout
    assert of_gcloud_and_git(place) == []
    tpu_vm(command, *SLICE, *rest)
    run = of_gcloud_and_git(place)
    monkeypatch.chdir(ROOT)
    subprocess.run(["bash", "-euc", printed], check=True, timeout=60)
    assert run == of_gcloud_and_git(place)
    assert len(run) >= 1


COMMON = ["--accelerator-type=v4-32", "--zone=us-central2-b", "--quiet"]
QUEUED = [*COMMON, "--node-id=my-slice", "--runtime-version=tpu-ubuntu2204-base"]
PLACE = ["--network=net", "--subnetwork=sub", "--service-account=a@p.test"]
FLEX = ["--provisioning-model=flex-start", "--max-run-duration=24h"]


@pytest.mark.parametrize(
    ("words", "track", "group", "flags"),
    [
        (
            ["--reserved", *PLACE[:2], "--service_account=a@p.test"],
            [],
            "tpu-vm",
            [*COMMON, *PLACE, "--version=tpu-ubuntu2204-base", "--reserved"],
        ),
        (
            ["--spot", "--internal"],
            [],
            "queued-resources",
            [*QUEUED, "--valid-until-duration=6h", "--internal-ips", "--spot"],
        ),
        (
            ["--queued", "--valid_until=30m"],
            [],
            "queued-resources",
            [*QUEUED, "--valid-until-duration=30m"],
        ),
        (
            ["--guaranteed"],
            [],
            "queued-resources",
            [*QUEUED, "--valid-until-duration=6h", "--guaranteed"],
        ),
        (
            ["--max_run=24h"],
            ["alpha"],
            "queued-resources",
            [*QUEUED, "--valid-until-duration=6h", *FLEX],
        ),
    ],
)
def test_a_slice_is_asked_for_as_said(words, track, group, flags, place):
    fake_commands.make(place, gcloud="")
    tpu_vm("create", *SLICE, *KIND, *words)
    ((_, *call),) = of_gcloud_and_git(place)
    start = [*track, "compute", "tpus", group, "create", "my-slice"]
    assert call[: len(start)] == start
    assert sorted(call[len(start) :]) == sorted(flags)


@pytest.mark.parametrize(("nfs", "main"), [(NFS, MAIN), ([], BUCKET)])
def test_install_and_run_start_the_trainer_on_every_worker(nfs, main, place):
    tpu_vm("install", *SLICE)
    tpu_vm("run", *SLICE, *nfs, *main)
    wait_until(lambda: text_of(place / "arguments"))
    passed = json.loads((place / "arguments").read_text())
    assert passed == ["-m", "progdist.main", "--distributed", *main[1:]]
    asked = [name for name, *_ in fake_commands.calls(place)]
    assert ("mountpoint" in asked) == bool(nfs)
    status = tpu_vm("status", *SLICE).stdout.splitlines()
    assert status == ["READY", "progdist: running", "progdist: running"]
    second = tpu_vm("run", *SLICE, *nfs, *main, check=False)
    assert second.returncode == 1
    assert "is running already" in second.stderr


@pytest.fixture
def home(place):
    """A worker with a checkout."""
    home = place / "home0"
    shutil.copytree(ROOT / "launch", home / "progdist" / "launch")
    assert state(home) == "absent"
    (home / "progdist" / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(place / "bin" / "trainer", home / "progdist" / ".venv/bin/python")
    (home / "progdist" / ".venv" / "complete").touch()
    assert state(home) == "idle"
    return home


def start(home, code, deletion="", hours="2", bucket=""):
    write_whole(home.parent / "codes-home0", code)
    where = ["", bucket] if bucket else ["10.0.0.2:/share", str(home)]
    worker(home, "start", *where, hours, deletion, "--config=C", "--workdir=/w")
    wait_until(lambda: text_of(home.parent / "arguments"))


def test_the_trainer_outlives_the_connection_and_ends_on_demand(home):
    start(home, "60:0")
    assert state(home) == "running"
    worker(home, "stop")
    wait_until(lambda: state(home) == "ended 143")


def processes(home):
    """The shell that waits, the clock that it waits for, and the trainer."""
    pid = int((home / ".progdist" / "pid").read_text())
    trainer = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return int(Path(f"/proc/{pid}/stat").read_text().split()[3]), pid, int(trainer)


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGKILL, "ended 137"), (signal.SIGTERM, "ended 143")]
)
def test_a_machine_that_goes_leaves_what_it_meant(number, end, home):
    start(home, "60:0")
    for process in processes(home):
        os.kill(process, number)
    wait_until(lambda: state(home) == end)


@pytest.mark.parametrize("code", [0, 2, 5])
def test_the_exit_code_is_kept(code, home):
    start(home, str(code))
    wait_until(lambda: state(home) == f"ended {code}")
    assert f"launch: ended with {code}" in (home / ".progdist" / "log").read_text()


def test_a_run_has_a_longest_time_after_which_it_saves(home):
    start(home, "60:0", hours="0.0001")
    wait_until(lambda: state(home) == "ended 143")


def test_the_slice_is_deleted_at_the_end_if_asked(home, place, monkeypatch):
    monkeypatch.setenv("SECONDS_BEFORE_DELETION", "0")
    printed = tpu_vm("delete", *SLICE, "--spot", "--dry_run").stdout.strip()
    fake_commands.make(place, gcloud="")
    start(home, "3", deletion=printed)
    wait_until(lambda: state(home) == "ended 3")
    ((_, *call),) = of_gcloud_and_git(place)
    assert call[2:5] == ["queued-resources", "delete", "my-slice"]
    assert {"--force", "--quiet"} <= set(call)
    (log,) = home.glob("*.log")  # on the share, since the slice goes
    assert "launch: ended with 3" in log.read_text()


def test_a_log_goes_to_the_bucket_and_the_slice_even_if_it_cannot(
    home, place, monkeypatch
):
    monkeypatch.setenv("SECONDS_BEFORE_DELETION", "0")
    printed = tpu_vm("delete", *SLICE, "--dry_run").stdout.strip()
    fake_commands.make(place, gcloud="sys.exit(words[0] == 'storage')")
    start(home, "0", deletion=printed, bucket="gs://my-bucket/w")
    log = home / ".progdist" / "log"
    wait_until(lambda: len(of_gcloud_and_git(place, keep=True)) == 2)
    (_, *copy), (_, *deletion) = of_gcloud_and_git(place)
    assert copy[:-1] == ["storage", "cp", "--quiet", str(log)]
    assert copy[-1].startswith("gs://my-bucket/w/")
    assert deletion[2:4] == ["tpu-vm", "delete"]
    assert "the log was not copied" in log.read_text()


def test_a_bucket_that_is_mounted_is_refused(home, place):
    fake_commands.make(place, findmnt="print('fuse.gcsfuse')")
    with pytest.raises(subprocess.CalledProcessError) as error:
        worker(home, "mount_share", "10.0.0.2:/share", str(home))
    assert error.value.returncode == 2
    assert "mounted by gcsfuse; use --workdir=gs://BUCKET/PATH" in error.value.stderr


def test_a_fresh_machine_is_waited_for(home, place):
    fake_commands.make(place, mountpoint="sys.exit(1)", sudo="")
    worker(home, "mount_share", "10.0.0.2:/share", str(home / "share"))
    apt = [call[2:] for call in fake_commands.calls(place) if "apt-get" in call]
    wait = ["-o", "DPkg::Lock::Timeout=300", "--yes", "--quiet"]
    assert apt == [[*wait, "update"], [*wait, "install", "nfs-common"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tidy"], "tidy: is not a command"),
        (["create", *SLICE, "--tipe=v4-8"], "--tipe=v4-8: unknown"),
        (["create", *SLICE], "--type=: must look like v4-32"),
        (["watch", *SLICE], "watch: is not a command"),
        (["create", *SLICE, *KIND, "--valid_until=1 day"], "must look like 6h"),
        (["run", *SLICE, *NFS, "--max_hours=0", *MAIN], "must look like 168"),
        (["status", "--zone=us-central2-b"], "--name=: must look like my-slice"),
        (["status", "--name=a;id", "--zone=us-central2-b"], "--name=a;id: must"),
        (["status", "--name=a", "--zone=$(id)"], "--zone=$(id): must look like"),
        (["run", *SLICE, *MAIN], "--nfs=: must look like 10.0.0.2:/share"),
        (["run", *SLICE, *NFS], "--config=... is missing after --"),
        (
            ["run", *SLICE, *NFS, "--", "--config=C", "--workdir=/tmp/w"],
            "must be gs://BUCKET/PATH or below the mount, /mnt/progdist",
        ),
        (
            ["run", *SLICE, "--", "--config=C", "--workdir=gs://bucket/"],
            "--workdir=gs://bucket/: must be gs://BUCKET/PATH or below the mount",
        ),
        (
            ["run", *SLICE, "--", "--config=C", "--workdir=s3://bucket/w"],
            "--workdir=s3://bucket/w: must be gs://BUCKET/PATH or below the mount",
        ),
        (["run", *SLICE, *NFS, *BUCKET], "needs no share; omit --nfs and --mount"),
        (["run", *SLICE, "--mount=/m", *BUCKET], "omit --nfs and --mount"),
        (["fetch", *SLICE, "--from=W", "--to=runs"], "--from=W: must look like"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, message, place):
    done = tpu_vm(*words, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert fake_commands.calls(place) == []
