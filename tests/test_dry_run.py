"""The plan of a run, shown before it starts, and the facts for a bug report."""

import re
import shutil

import pytest

from progdist.commands import env, train
from progdist.config import ConfigError, load_preset, plan_of, to_json
from progdist.data import DataError
from progdist.report import save_png
from progdist.trainer import dry_run
from tests.commands import answer
from tests.workdirs import images


def lines(words, capsys, monkeypatch):
    """Standard output of a command, by lines."""
    monkeypatch.setattr("progdist.commands.devices.prepare", lambda *_: None)
    train.main(["progdist train", *words])
    return capsys.readouterr().out.splitlines()


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys, monkeypatch, tmp_path):
    words = [str(tmp_path / "w"), "--config=digits:smoke", "--dry_run"]
    found = lines([*words, "--config.base.batch_size=24"], capsys, monkeypatch)
    text = "\n".join(found)
    assert "digits (train): 1,797 images at 8x8x1, 10 classes: 0, 1, 2, 3, 4, …" in text
    assert "UNet, 38,452 parameters, output v, float32" in text
    assert "8 x cpu" in text
    assert f"{tmp_path}/w, will be created" in text
    # 10 updates of 24 images in 3 passes, twice of 16 images in 5; then 32 samples in
    # 4 steps twice, and in 2 and 1 steps three times.
    rows = {line.split()[0]: line.split()[-1] for line in found if "%" in line}
    assert rows == {"teacher": "25.1%", "round": "27.9%", "evaluation": "19.0%"}
    assert "3 models of 154 kB" in text
    # 1.017 MFLOP a pass; 10 updates of 24 images and so on, as above.
    passes = 10 * 24 * 3 + 2 * 10 * 16 * 5 + 32 * (4 * 2 + 2 * 3 + 1 * 3)
    assert f"in all      {passes * 1_016_832:.3g} model FLOPs" in text
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_for_the_checkpoints_is_refused(
    capsys, monkeypatch, tmp_path
):
    """Of 38,452 parameters: 3 checkpoints of 5 copies, and 3 models, in float32."""
    needed = 4 * 38_452 * (3 * 5 + 3)
    usage = shutil.disk_usage(tmp_path)
    words = [str(tmp_path / "a/b"), "--config=digits:smoke", "--dry_run"]

    def free(num_bytes):
        found = usage._replace(free=num_bytes)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: found)

    free(needed)
    assert lines(words, capsys, monkeypatch)
    free(needed - 1)
    with pytest.raises(ConfigError, match=r"take 2\.77 MB more, and 2\.77 MB are"):
        lines(words, capsys, monkeypatch)
    checkpoints = tmp_path / "a/b/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "file").write_bytes(b"x")  # of an earlier start
    assert lines(words, capsys, monkeypatch)
    # All that are kept: 10, 10 and 10 updates, saved each 5 and at their ends.
    free(4 * 38_452 * (6 * 5 + 3))
    assert lines([*words, "--config.keep_checkpoints=1000000"], capsys, monkeypatch)


def test_the_passes_of_an_evaluation_are_those_of_its_rows(tmp_path):
    """Each row of a whole run is one sampling; its last batch is computed whole."""
    config = load_preset("digits", "smoke")
    config.evaluation.num_samples = 33
    specs = [(4, 2), (2, 3), (1, 3)]  # N and its samplers
    expected = sum(n * count for n, count in specs) * 64
    assert dry_run.evaluation_passes(config, plan_of(config)) == expected
    config.evaluation.enabled = False
    assert dry_run.evaluation_passes(config, plan_of(config)) == 0


@pytest.mark.parametrize(
    ("name", "share"), [("cifar10", 0.0199), ("imagenet64", 0.00167), ("digits", 0.108)]
)
def test_the_share_of_the_evaluation_in_the_published_plans(name, share):
    """CIFAR-10: 50,176 images in 64 + 2 * 127 calls, and 8e8 passes of training."""
    config = load_preset(name)
    phases = plan_of(config)
    sampling = dry_run.evaluation_passes(config, phases)
    training = dry_run.training_passes(phases)
    assert sampling / (sampling + training) == pytest.approx(share, rel=0.02)


def test_the_plan_is_shown_even_if_the_data_is_missing(capsys, monkeypatch, tmp_path):
    words = [str(tmp_path / "w"), "--config=digits:smoke", "--config.data.name=tfds"]
    words += ["--config.data.tfds_name=cifar10", f"--config.data.dir={tmp_path}"]
    with pytest.raises(DataError, match="; run progdist prepare cifar10 --dir="):
        lines([*words, "--dry_run"], capsys, monkeypatch)
    found = capsys.readouterr().out.splitlines()
    assert found[0].endswith("cifar10 (train), at 8x8x1")
    assert "38,452 parameters" in found[1]
    assert not list(tmp_path.iterdir())


def test_a_folder_is_described(capsys, monkeypatch, tmp_path):

    for number in range(4):
        save_png(tmp_path / "ab"[number % 2] / f"{number}.png", images(number)[0])
    words = [str(tmp_path / "w"), f"--config=folder:{tmp_path}", "--dry_run"]
    text = "\n".join(lines(words, capsys, monkeypatch))
    assert "4 images of 2 classes, 8x8: trained at 8x8x1" in text


def test_a_workdir_alone_resumes(capsys, monkeypatch, tmp_path):
    code, error = answer(
        train, str(tmp_path), "--dry_run", capsys=capsys, monkeypatch=monkeypatch
    )
    assert (code, error) == (
        2,
        "progdist: --config is missing; progdist train --list names the presets\n",
    )
    config = load_preset("digits", "smoke")

    (tmp_path / "config.json").write_text(to_json(config))
    text = "\n".join(lines([str(tmp_path), "--dry_run"], capsys, monkeypatch))
    assert f"{tmp_path}, exists" in text
    (tmp_path / "config.json").write_text(
        to_json(config).replace("{", '{"seeds": 1,', 1)
    )
    _, error = answer(
        train, str(tmp_path), "--dry_run", capsys=capsys, monkeypatch=monkeypatch
    )
    assert re.search(r"not a configuration \('seeds' is no field of version \d", error)


def test_the_environment_has_what_a_bug_report_needs(capsys, monkeypatch):
    monkeypatch.setattr("progdist.commands.devices.prepare", lambda *_: None)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    env.main(["progdist env"])
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["devices"].startswith("8 x cpu")
    assert rows["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    assert {"progdist", "commit", "python", "jax", "numpy", "cache"} <= set(rows)
