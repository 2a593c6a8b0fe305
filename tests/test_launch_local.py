"""Several processes on one machine: they start, stop and fail together."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch import local
from launch.local import End, is_worth_restarting, verdict
from tests.waiting import text_of, wait_until

ROOT = Path(__file__).parents[1]
# Stands in for progdist.main: does what --do says for its rank, and keeps a diary.
STAND_IN = r"""
import os, signal, sys, time
words = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
rank, diary = int(words["process_id"]), os.path.join(words["workdir"], "diary")
def note(text):
    with open(diary, "a") as file: file.write(f"{rank} {text}\n")
times = open(diary).read().count(f"{rank} started") if os.path.exists(diary) else 0
def heard(number, _): note(f"heard {number}"); global last; last = number
last = 0
for name in "INT TERM HUP USR1 USR2".split():
    signal.signal(getattr(signal, "SIG" + name), heard)
print(f"out {rank}"); print(f"err {rank}", file=sys.stderr, flush=True)
note(f"started {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', 'cpu')}")
def wait():
    while True: time.sleep(0.02)
def save():
    while not last: time.sleep(0.02)
    time.sleep(0.3); sys.exit(128 + last)
def wait_for_others():
    while open(diary).read().count("started") < int(words["num_processes"]):
        time.sleep(0.02)
def lose(): os.kill(os.getpid(), signal.SIGKILL)
exec(words["do"].split("|")[rank])
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "progdist").mkdir()
    (tmp_path / "progdist" / "__init__.py").touch()
    (tmp_path / "progdist" / "main.py").write_text(STAND_IN)
    return tmp_path


@pytest.fixture
def start(place):
    """Starts the launcher; what is left at the end of the test is killed."""
    with contextlib.ExitStack() as stack:

        def start(*flags, do, **options):
            command = [sys.executable, "-m", "launch.local", *flags, "--"]
            command += ["--config=C", f"--workdir={place}", f"--do={do}"]
            process = subprocess.Popen(
                command,
                cwd=place,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **options,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def diary(place):
    lines = text_of(place / "diary").splitlines(keepends=True)
    return [line.rstrip("\n") for line in lines if line.endswith("\n")]


def await_start(place, num=2):
    wait_until(lambda: len([line for line in diary(place) if "started" in line]) == num)
    return [int(line.split()[2]) for line in diary(place)]


def is_alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([], 0),
        ([(0, 0), (1, 0)], 0),
        ([(0, 5), (1, 2)], 2),
        ([(1, 4), (0, 3)], 3),  # the lower rank's
        ([(1, 134), (0, 137)], 137),
        ([(1, 5), (0, 134)], 5),
        ([(1, 143), (0, 143)], 143),
        ([(0, 5), (1, 1)], 1),
    ],
)
def test_the_exit_code_is_the_causes(ends, code):
    assert verdict([End(*end) for end in ends]) == code


def test_who_was_killed_at_the_end_is_not_the_cause():
    assert verdict([End(0, 5), End(1, 137, killed=True)]) == 5
    assert verdict([End(0, 0), End(1, 137, killed=True)]) == 137


def test_only_a_loss_or_a_preemption_is_worth_another_start():
    worth = [code for code in range(256) if is_worth_restarting(code)]
    assert worth == [5, 129, *range(131, 256)]


def test_the_cores_are_dealt_out():
    assert [local.share(range(8), rank, 2) for rank in (0, 1)] == [
        range(4),
        range(4, 8),
    ]
    assert [local.share([3, 5], rank, 3) for rank in (0, 1, 2)] == [[3], [5], [3]]


@pytest.mark.parametrize("gpus", [0, 2])
def test_the_dry_run_prints_what_is_run(place, gpus, start):
    flags = ["--port=4321", f"--gpus_per_process={gpus}", "--heartbeat_seconds=7"]
    do = "note(repr(sys.argv[1:])); 'it''s'|note(repr(sys.argv[1:])); 'it''s'"
    code, out, _ = finish(start(*flags, "--dry_run", do=do))
    assert (code, diary(place)) == (0, [])
    printed = [shlex.split(line) for line in out.splitlines()]
    assert finish(start(*flags, do=do))[0] == 0
    for rank, words in enumerate(printed):
        assert words[words.index("-m") :] == [
            *("-m", "progdist.main", "--config=C", f"--workdir={place}", f"--do={do}"),
            *("--distributed", "--coordinator=127.0.0.1:4321", "--num_processes=2"),
            *(f"--process_id={rank}", "--heartbeat_seconds=7"),
        ]
        assert f"{rank} {words[words.index('-m') + 2 :]!r}" in diary(place)
        devices = f"{2 * rank},{2 * rank + 1}" if gpus else "cpu"
        assert any(re.match(f"{rank} started .* {devices}$", e) for e in diary(place))
        first = f"CUDA_VISIBLE_DEVICES={devices}" if gpus else "JAX_PLATFORMS=cpu"
        assert words[:2] == ["env", first]


def test_the_first_process_has_the_terminal_and_the_others_a_prefix(start):
    code, out, err = finish(start(do="0|0"))
    assert code == 0
    assert out == "out 0\n"
    assert sorted(err.splitlines()) == ["[1] err 1", "[1] out 1", "err 0"]


def test_a_failure_ends_the_others_after_the_grace(place, start):
    code, _, err = finish(
        start("--grace_seconds=1", do="wait_for_others(); sys.exit(3)|wait()")
    )
    assert code == 3
    assert "process 0 ended with 3; process 1 was killed after the others" in err
    assert not any(is_alive(pid) for pid in await_start(place))


def test_within_the_grace_the_others_end_by_themselves(start):
    do = "time.sleep(0.5); sys.exit(5)|lose()"
    assert finish(start(do=do))[0] == 137


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2]
)
def test_a_signal_reaches_every_process_once(place, number, start):
    process = start("--restart=3", do="save()|save()")
    await_start(place)
    process.send_signal(number)
    assert finish(process)[0] == 128 + number
    heard = sorted(line for line in diary(place) if "heard" in line)
    assert heard == [f"0 heard {number:d}", f"1 heard {number:d}"]


def test_ctrl_c_at_the_terminal_reaches_every_process_once(place, start):
    process = start(do="save()|save()", process_group=0)
    await_start(place)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert finish(process)[0] == 130
    assert len([line for line in diary(place) if "heard" in line]) == 2


def test_a_second_signal_kills_at_once(place, start):
    process = start(do="wait()|wait()")
    pids = await_start(place)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: len([e for e in diary(place) if "heard" in e]) == 2)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 137
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="a service of Linux")
def test_no_process_outlives_a_killed_launcher(place, start):
    process = start(do="wait()|wait()")
    pids = await_start(place)
    process.kill()
    process.wait(timeout=60)
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    process.communicate()


def test_a_lost_process_starts_all_again(place, start):
    do = "sys.exit(0 if times else 5)|0 if times else lose()"
    code, _, err = finish(start("--restart=2", do=do))
    assert code == 0
    assert err.count("launch: restarting") == 1
    assert len([line for line in diary(place) if "started" in line]) == 4


@pytest.mark.parametrize(("end", "starts"), [("lose()", 2), ("sys.exit(3)", 1)])
def test_the_restarts_have_an_end(place, start, end, starts):
    flags = ["--num_processes=1", "--restart=1"]
    assert finish(start(*flags, do=end))[0] in (3, 137)
    assert len([line for line in diary(place) if "started" in line]) == starts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_processes=0"], "0 is not a positive integer"),
        (["--num_proceses=2"], "Unknown command line flag 'num_proceses'"),
        (["--config=C", "--workdir=W"], "Unknown command line flag 'config'"),
        (["stray", "--"], "'stray' is not a flag"),
        (["--", "--workdir=W"], "--config=... is missing after --"),
        (["--", "--config=C"], "--workdir=... is missing after --"),
        (["--", "--config=C", "--workdir=s3://b/w"], "must be gs://BUCKET/PATH or a"),
        (
            ["--", "--config=C", "--workdir=W", "--process_id=1"],
            "--process_id=1: is set by the launcher",
        ),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, message):
    done = subprocess.run(
        [sys.executable, "-m", "launch.local", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("launch: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_trainer_runs_in_two_processes_and_saves_on_sigterm(tmp_path):
    workdir = tmp_path / "w"
    command = [sys.executable, "-m", "launch.local", "--", f"--workdir={workdir}"]
    command += ["--config=configs/digits.py:smoke", "--config.cpu_devices=1"]
    command += ["--config.base.num_updates=1000000", "--config.log_every=1"]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as launcher:
        try:
            wait_until(lambda: text_of(workdir / "metrics.jsonl"), seconds=200)
            launcher.send_signal(signal.SIGTERM)
            _, errors = launcher.communicate(timeout=180)
        finally:
            launcher.kill()
    assert launcher.returncode == 143, errors
    assert "[1] progdist: " in errors
    assert list((workdir / "checkpoints").iterdir())
