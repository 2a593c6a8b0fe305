"""The page shows the contents of the files, in one file, for any names."""

import base64
import contextlib
import html.parser
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progdist import plan as plans, report
from progdist.commands.report import main
from progdist.errors import exit_with
from progdist.report.figures.images import data_uri
from progdist.report.text import duration_text, many_text
from tests import browser
from tests.workdirs import (
    N_0,
    PHASES,
    REAL,
    bars,
    evaluation,
    evaluations,
    images,
    make_workdir,
    write_jsonl,
    write_nearest,
)

VOID = {"meta", "link", "img", "input", "br"}
HOSTILE = '<b onclick="x">$1_{$&amp;\''  # with a formula that is none


class Parsed(html.parser.HTMLParser):
    """A page's elements, and the cells of its tables; refuses what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.text, self._open = "", []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self._open):
            self.text += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


OF_1_000 = {
    "floor": {"value": 0.5, "measured": 0.75, "count": 1000},
    "reference": {"data": "digits", "split": "train", "count": 1234, "content": "abc"},
}


def config(**changes) -> dict:
    return {
        "seed": 0,
        "data": {"name": "digits", "image_shape": [8, 8, 1]},
        "base": {"num_updates": 20, "batch_size": 64},
        "distill": {
            "num_updates": 20,
            "batch_size": 32,
            "start_steps": N_0,
            "end_steps": 1,
            "ratio": 2,
            "long_rounds": 0,
            "long_num_updates": 0,
        },
        **changes,
    }


def plan() -> str:
    sizes = {"base_batch_size": 64, "round_batch_size": 32}
    return plans.to_json(
        plans.make_plan(
            base_updates=20, round_updates=20, start_steps=N_0, end_steps=1, **sizes
        )
    )


def start(**changes) -> dict:
    return {
        "time": "2026-01-02T03:00:00Z",
        "global_step": 0,
        "commit": "abc123",
        "command": "python -m progdist.main",
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "defaults": {"base.batch_size": 128},
        **changes,
    }


def make_run(path: Path, phases: int = PHASES) -> Path:
    path.mkdir(parents=True)
    make_workdir(path, phases)
    write_nearest(path)
    rows = [
        json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()
    ]
    rows = [r | {"step": r["step"] + 1, "steps_per_second": 4.0} for r in rows]
    rows = [r | {"loss_by_logsnr": bars(r["num_steps"], r["loss"])} for r in rows]
    write_jsonl(path / "metrics.jsonl", rows)
    (path / "config.json").write_text(json.dumps(config()))
    (path / "plan.json").write_text(plan())
    end = {"end": "done", "time": "2026-01-02T03:10:00Z"}
    write_jsonl(path / "starts.jsonl", [start(), end])
    return path


def read(*workdirs: Path, out: Path | None = None) -> Parsed:
    return Parsed(report.write_page(workdirs, out).read_text())


def picture(uri: str) -> Image.Image:
    kind, data = re.fullmatch(r"data:image/(png|webp);base64,(.*)", uri).groups()
    loaded = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert loaded.format == kind.upper()
    return loaded


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def one(workdir):
    return read(workdir)


# One file


def test_the_page_asks_the_network_for_nothing(workdir, one):
    addresses = [
        value
        for _, attrs in one.elements
        for name, value in attrs.items()
        if name in ("src", "href", "xlink:href", "srcset", "action")
    ]
    assert all(a.startswith(("data:", "#")) for a in addresses)
    assert not one.all("script")
    text = (workdir / "report.html").read_text()
    assert not re.findall(r"https?://(?!www\.w3\.org/)|url\((?!#)|@import", text)
    policy = one.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_every_picture_can_be_read_and_is_described(one):
    pictures = one.all("img")
    assert len(pictures) == 2 * PHASES + 1 + 2 * (5 + 3 + 2) + 1 + 2 * 8
    assert all(attrs["alt"] for attrs in pictures)
    for attrs in pictures:
        assert picture(attrs["src"]).size[0] >= 8
    charts = one.all("svg")
    # Distances, learning rate, and of each phase its loss and its profile.
    assert len(charts) == 2 + 2 * (PHASES + 1)
    assert all(c["aria-label"] and c["role"] == "img" for c in charts)


def test_no_two_elements_share_an_id_and_every_reference_has_one(one):
    ids = [attrs["id"] for _, attrs in one.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in one.elements:
        for value in (attrs.get("for"), attrs.get("xlink:href"), attrs.get("href")):
            if value and not value.startswith("data:"):
                assert value.removeprefix("#") in ids


@pytest.mark.parametrize("several", [False, True])
def test_no_heading_skips_a_level(one, workdir, tmp_path, several):
    page = one
    if several:
        page = read(workdir, make_run(tmp_path / "r", 1), out=tmp_path / "p.html")
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert max(np.diff(levels)) == 1


def test_it_is_small(workdir):
    assert (workdir / "report.html").stat().st_size < 500_000


@pytest.mark.parametrize(("h", "ch"), [(8, 1), (5, 3), (32, 3)])
def test_a_grid_holds_the_very_pixels_and_nothing_between(h, ch):
    drawn = images(0, n=5, shape=(h, h, ch))
    grid = np.asarray(picture(data_uri(drawn, 3)))
    assert grid.shape == (2 * h + 1, 3 * h + 2, ch + 1)
    for i, image in enumerate(drawn):
        top, left = i // 3 * (h + 1), i % 3 * (h + 1)
        cell = grid[top : top + h, left : left + h]
        np.testing.assert_array_equal(cell[..., :-1], image)
    assert (grid[..., -1] == 255).sum() == 5 * h * h


def test_large_pictures_are_compressed():
    smooth = np.linspace(0, 255, 4 * 64 * 64 * 3).reshape(4, 64, 64, 3)
    uri = data_uri(smooth.astype(np.uint8), 2)
    assert picture(uri).format == "WEBP"
    assert len(uri) < 20_000


# Contents


def test_the_table_holds_the_rows(one):
    head, *lines = one.tables[0]
    assert head[0] == "networkcalls"
    assert [line[0] for line in lines] == ["16", "8", "4", "2", "1"]
    assert head[1:] == ["student", "÷ teacherat 16", "teacherDDIM", "teacherancestral"]
    assert lines[0] == ["16", "–", "–", "2.00", "–"]
    for n, line in zip((8, 4, 2, 1), lines[1:], strict=True):
        student, ratio, ddim, ancestral = (
            float(cell.rstrip("×")) for cell in line[1:5]
        )
        assert student == pytest.approx(2 + 1 / n, abs=5e-3)
        assert ratio == pytest.approx((2 + 1 / n) / 2, abs=6e-3)
        assert (ddim, ancestral) == (2 + 16 / n, 2 + 32 / n)


def test_the_first_words_are_the_numbers_that_matter(one):
    words = " ".join(one.text.split())
    assert (
        "4 times fewer network calls at 1.12 times the teacher's distance. The 4-step "
        "student reaches 2.25 (FD-pixels, lower is better), the teacher 2.00 in 16 "
        "steps. The 1-step student reaches 3.00, 1.50 times the teacher's distance. "
        in words
    )
    assert "The floor" not in words


def test_the_best_setting_and_the_best_other_solver_count(tmp_path):
    rows = [
        *evaluations(1),
        evaluation(1, "teacher", "ancestral", 8, 5.0) | {"gamma": 0.0},
        evaluation(1, "teacher", "ancestral", 8, 4.5) | {"gamma": 0.3},
        evaluation(1, "teacher", "heun", 8, 3.5),
        evaluation(1, "teacher", "dpm", 8, 3.0),
        evaluation(1, "teacher", "dpm", 8, 3.25),
        evaluation(1, "student", "heun", 8, 1.0),
        evaluation(1, "student", "ddim", 8, 7.5, "FD-net") | OF_1_000,
    ]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    page = read(tmp_path)
    assert page.tables[0][-1][3:] == ["4.00", "4.50 gamma 0.3", "3.25 dpm"]
    # The student's own sampler is what the ratio and the first words go by.
    assert page.tables[0][-1][1:3] == ["2.121.00 heun", "1.06×"]
    words = " ".join(page.text.split())
    assert "The 8-step student reaches 2.12" in words
    assert page.tables[1] == [["networkcalls", "student"], ["8", "7.50"]]
    assert (
        "2,000 samples, compared with 1,234 of digits (train). Lower is better. The "
        "floor, the same metric between two disjoint halves of the real data, is 0.500 "
        "(0.750 between 1,000 images each, scaled to these sample sizes)." in words
    )
    everything = page.tables[-1]
    assert everything[0][-3:] == ["gamma", "floor", "reference"]
    assert everything[1][-3:] == ["–", "–", "–"]
    assert not {"params", "schedule"} & set(everything[0])
    assert len(everything) == 1 + len(rows)


def test_a_student_without_ddim_is_shown_with_its_sampler(tmp_path):
    rows = [
        evaluation(1, "student", "heun", 8, 3.0),
        evaluation(1, "student", "ancestral", 8, 2.5) | {"gamma": 0.0},
        evaluation(1, "student", "ancestral", 8, 2.25) | {"gamma": 1.0},
    ]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    page = read(tmp_path)
    assert page.tables[0][-1] == ["8", "2.25 ancestral,gamma 1.0"]
    assert len(page.all("svg")) == 1


def test_what_is_better_depends_on_the_metric(tmp_path):
    rows = [
        evaluation(0, "teacher", "ddim", 16, 0.9, "precision-net"),
        evaluation(1, "teacher", "ancestral", 8, 0.7, "precision-net") | {"gamma": 0.0},
        evaluation(1, "teacher", "ancestral", 8, 0.8, "precision-net") | {"gamma": 1.0},
        evaluation(1, "student", "ddim", 8, -0.001, "KID-net"),
        evaluation(0, "teacher", "ddim", 16, 0.001, "KID-net"),
    ]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    page = read(tmp_path)
    assert page.tables[0][-1] == ["8", "–", "0.800 gamma 1.0"]
    assert page.tables[1][-1] == ["8", "-0.00100", "–"]  # no ratio of that
    assert page.text.count("Higher is better.") == 1
    assert page.text.count("Lower is better.") == 1
    assert len(page.all("svg")) == 2


def test_runs_of_other_sample_sizes_are_neither_joined_nor_compared(tmp_path):
    few = [r | {"num_samples": 50, "value": 9.0} for r in evaluations(1)]
    for name, rows in (("a", evaluations(1)), ("b", few)):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "eval.jsonl", rows)
    page = read(tmp_path / "a", tmp_path / "b", out=tmp_path / "both.html")
    assert page.tables[0][0] == ["", "a"]
    assert page.tables[0][-1] == ["8", "2.12", "1.06×", "4.00", "6.00"]
    assert page.tables[1][0] == ["", "b"]
    assert page.tables[1][-1] == ["8", "9.00", "1.00×", "9.00", "9.00"]
    for title in ("FD-pixels of 2,000 samples", "FD-pixels of 50 samples"):
        assert title in page.text
    assert len(page.all("svg")) == 2


def test_time_has_a_chart_and_sampling_a_column(tmp_path):
    workdir = make_run(tmp_path / "r", phases=1)
    rows = [r | {"milliseconds": 3.0} for r in evaluations(1)]
    write_jsonl(workdir / "eval.jsonl", [*rows, rows[0] | {"metric": "KID-pixels"}])
    page = read(workdir)
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert "FD-pixels against milliseconds per image" in labels
    (table,) = (t for t in page.tables if t[0][:2] == ["phase", "N"])
    assert [line[-2] for line in table] == ["sampling", "6.0 s", "18 s", "24 s"]
    widths = re.findall(
        r'style="width: ([0-9.]+)%"', (workdir / "report.html").read_text()
    )
    # Training takes 5 seconds in both phases.
    np.testing.assert_allclose(
        np.array(widths, float), 100 * np.array([5, 6, 5, 18]) / 23, atol=0.06
    )


def test_samples_stand_above_their_nearest_training_images(one):
    pairs = [img for img in one.all("img") if "above the nearest" in img["alt"]]
    assert len(pairs) == 16
    pixels = np.asarray(picture(pairs[0]["src"]))
    np.testing.assert_array_equal(pixels[:8, :, 0], images(N_0 // 4)[0, ..., 0])
    np.testing.assert_array_equal(pixels[9:, :, 0], images(REAL + 4)[0, ..., 0])
    words = " ".join(one.text.split())
    assert "student, 4 steps: median distance 5.50" in words
    assert "nearest other one: 30.0, among 1,797 images." in words


def test_values_that_are_not_comparable_have_tables_of_their_own(tmp_path):
    rows = [
        *evaluations(1),
        evaluation(1, "student", "ddim", 8, 9.0) | {"num_samples": 50, "seed": 3},
        # Not the number of steps that it was made for.
        evaluation(1, "student", "ddim", 4, 1.0) | {"trained_steps": 8},
    ]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    page = read(tmp_path)
    assert page.tables[0][-1][:2] == ["8", "2.12"]
    assert page.tables[1][-1][:2] == ["8", "9.00"]
    assert "FD-pixels of 2,000 samples, seed unknown" in page.text
    assert "FD-pixels of 50 samples, seed 3" in page.text


def test_samples_are_chosen_by_buttons_with_names(one):
    buttons = one.all("input")
    assert {b["type"] for b in buttons} == {"radio"}
    assert [b["id"] for b in buttons] == ["steps-8", "steps-4", "steps-2", "steps-1"]
    assert [b["id"] for b in buttons if "checked" in b] == ["steps-4"]
    assert "8 network calls" in one.text


def test_a_phase_costs_time_images_and_network_calls(one):
    (table,) = (t for t in one.tables if t[0][:2] == ["phase", "N"])
    assert table[1] == [
        "teacher", "16", "20", "0.00500", "256", "1,280", "3,840", "5.0 s", "",
    ]  # fmt: skip
    round_1 = ["round 1", "8", "20", "0.00250", "128", "640", "3,200", "5.0 s", ""]
    assert table[2] == round_1
    calls = f"{3840 + PHASES * 3200:,}"
    assert table[-1] == ["all", "", "100", "", "", "3,840", calls, "25 s", ""]


def test_settings_that_differ_from_the_default_come_first(one):
    changed, *rest = (t for t in one.tables if t[0][1:] == ["value"])
    assert changed == [["base", "value"], ["base.batch_size", "64 default 128"]]
    assert [t[0][0] for t in rest] == ["base", "data", "distill", "run"]
    others = [line for table in rest for line in table[1:]]
    assert ["data.image_shape", "[8, 8, 1]"] in others
    assert 1 + len(others) == sum(
        len(v) if isinstance(v, dict) else 1 for v in config().values()
    )


def test_the_page_shows_how_well_devices_and_time_were_used(tmp_path):
    """Of 100 updates in 25 s, of 1 TFLOP each, within the 10 minutes of a start."""
    path = make_run(tmp_path / "run")
    lines = (path / "metrics.jsonl").read_text().splitlines()
    speed = {"tflops_per_second": 4.0, "utilisation": 0.375}
    write_jsonl(path / "metrics.jsonl", [json.loads(line) | speed for line in lines])
    tables = read(path).tables
    facts = {line[0]: line[1] for t in tables for line in t if len(line) == 2}
    assert facts["goodput"] == "4.2 % of 10 min 0 s: training 25 s"
    phases = next(t for t in tables if t[0][0] == "phase")
    cells = {name: phases[1][phases[0].index(name)] for name in phases[0]}
    assert (cells["TFLOP/s"], cells["utilisation"]) == ("4.00", "38 %")


def test_the_page_shows_origin_and_starts(tmp_path):
    workdir = make_run(tmp_path / "r")
    starts = [
        start(),
        start(time="2026-01-02T04:00:00Z", global_step=40),
        {"end": "Interrupted", "time": "2026-01-02T04:00:30Z"},
        start(time="2026-01-02T05:00:00Z", global_step=60, commit="def456"),
        {"end": "done", "time": "2026-01-02T05:02:00Z"},
    ]
    write_jsonl(workdir / "starts.jsonl", starts)
    page = read(workdir)
    (table,) = (t for t in page.tables if t[0][0] == "time")
    assert table[0] == ["time", "from update", "lasted", "end", "commit"]
    assert [line[1:4] for line in table[1:]] == [
        ["0", "–", "killed"],
        ["40", "30 s", "stopped, saved"],
        ["60", "2 min 0 s", "done"],
    ]
    facts = {line[0]: line[1] for t in page.tables for line in t if len(line) == 2}
    assert facts["wall time"] == "2 min 30 s in 3 starts"
    assert (facts["commit"], facts["jax"]) == ("def456", "0.10.2")


def test_several_runs_stand_side_by_side(tmp_path):
    a, b = make_run(tmp_path / "x" / "run"), make_run(tmp_path / "y" / "run", phases=1)
    (b / "config.json").write_text(json.dumps(config(seed=7)))
    page = read(a, b, out=tmp_path / "both.html")
    names = [str(Path("x", "run")), str(Path("y", "run"))]
    assert page.tables[0][0] == ["", *names]
    assert page.tables[0][-1] == [
        "1", "3.00", "1.50×", "18.0", "34.0", "–", "–", "–", "–",
    ]  # fmt: skip
    eight = next(line for line in page.tables[0] if line[0] == "8")
    assert eight[1:5] == eight[5:9]
    assert ["seed", "0", "7"] in [line for t in page.tables for line in t]
    alts = [attrs["alt"] for attrs in page.all("img")]
    for name in names:
        assert f"12 images of {name}: student, 8 steps" in alts


# Hostile names


def test_text_of_unknown_origin_stays_text(tmp_path):
    workdir = make_run(tmp_path / HOSTILE)
    rows = [
        r | {"metric": HOSTILE, HOSTILE: HOSTILE}
        for r in [*evaluations(2), evaluation(1, "teacher", HOSTILE, 8, 3.0)]
    ]
    write_jsonl(workdir / "eval.jsonl", rows)
    (workdir / "config.json").write_text(json.dumps(config(**{HOSTILE: HOSTILE})))
    told = {"commit": HOSTILE, "command": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    write_jsonl(workdir / "starts.jsonl", [start(**told)])
    other = make_run(tmp_path / "plain")
    for page in (read(workdir), read(workdir, other, out=tmp_path / "p.html")):
        assert not [attrs for _, attrs in page.elements if "onclick" in attrs]
        assert page.text.count(HOSTILE) > 10
        assert page.all("svg")


def test_names_that_are_not_text_can_be_written(tmp_path):
    workdir = make_run(Path(f"{tmp_path}/\udcff\n\x07"))
    assert "���" in read(workdir).text


# Unfinished runs


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    page = read(tmp_path)
    for words in ("Nothing has been evaluated", "No updates", "No samples"):
        assert words in page.text


def test_a_row_being_written_is_left_out(tmp_path):
    workdir = make_run(tmp_path / "r", phases=1)
    for name in ("metrics.jsonl", "eval.jsonl", "starts.jsonl"):
        with (workdir / name).open("a") as file:
            file.write('{"global_step": 4')
    assert "updates" in read(workdir).text


def test_a_run_says_how_far_it_is(tmp_path):
    workdir = make_run(tmp_path / "r", phases=1)
    page = read(workdir)
    facts = {line[0]: line[1] for t in page.tables for line in t if len(line) == 2}
    assert facts["state"] == "in round 1 of 4 (8 steps)"
    assert facts["updates"] == "39 of 100"


def test_without_its_plan_a_run_has_a_page(tmp_path):
    workdir = make_run(tmp_path / "r")
    (workdir / "plan.json").unlink()
    page = read(workdir)
    facts = {line[0]: line[1] for t in page.tables for line in t if len(line) == 2}
    assert (facts["state"], facts["updates"]) == ("finished", "99")
    (table,) = (t for t in page.tables if t[0][:2] == ["phase", "N"])
    assert table[2] == ["round 1", "8", "20", "0.00250", "5.0 s", ""]


def test_the_teacher_alone_has_a_page(tmp_path):
    page = read(make_run(tmp_path / "r", phases=0))
    words = " ".join(page.text.split())
    assert "The teacher reaches 2.00 in 16 steps" in words
    assert "No student has been evaluated yet" in words


def test_without_a_note_of_its_start_a_run_has_a_page(tmp_path):
    workdir = make_run(tmp_path / "r")
    (workdir / "starts.jsonl").unlink()
    page = read(workdir)
    assert "commit" not in [line[0] for t in page.tables for line in t]
    assert "default" not in [
        line[1] for t in page.tables for line in t if len(line) > 1
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (3599.7, "1 h 0 min"),
        (2e5, "2 d 7 h"),
    ],
)
def test_times_are_for_people(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "–"), (0.5, "0.5"), (99_999, "99,999"), (5.379e6, "5.38 M"), (2e12, "2 T")],
)
def test_large_numbers_are_for_people(count, text):
    assert many_text(count) == text


# The command


def answer(*words, capsys):
    with pytest.raises(SystemExit) as ended:
        exit_with(main, ["report", *map(str, words)])
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "WORKDIR or --workdir is missing"),
        (["W/none"], "none: no such directory"),
        (["W"], "not the workdir of a run (no config.json)"),
        (["W/run", "W/run/../run"], "given twice"),
        (["W/run", "--out=W/no/a.html"], "there is no directory"),
        (["W/run", "--out=W"], "is a directory"),
        (["W/run", "--out=W/run/config.json"], "must end in .html or .htm"),
        (["W/run", "--out=W/html"], "must end in .html or .htm"),
        (["W/run", "--on=x"], "--on: is not a flag; see --help"),
        (["W/list"], "config.json: not a JSON object"),
        (["W/half"], "config.json: not JSON"),
        (["W/plan"], "plan.json: not a plan"),
        (["W/rows"], "metrics.jsonl: loss is not a number: 'x'"),
        (["W/bars"], "loss_by_logsnr is not a list of 21 numbers or nulls: [1, 'x']"),
        (["W/run", "W/plan", "--figures=W/x"], "takes one workdir, not 2 workdirs"),
        (["W/run", "--figures=W/x", "--watch=1"], "takes one workdir, not --watch"),
        (["W/run", "--figures=W/run/eval.jsonl"], "eval.jsonl: is not a directory"),
        (["W/run", "--watch=0"], "--watch=0: 0 is not a positive integer"),
        (["W/run", "W/run", "--watch=1"], "given twice"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, message, capsys, tmp_path):
    make_run(tmp_path / "run", phases=0)
    contents = {"list": "[]", "half": '{"a', "rows": "{}", "bars": "{}"}
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    (make_run(tmp_path / "plan", phases=0) / "plan.json").write_text('[{"kind": 1}]')
    row = {"phase": 0, "step": 1, "global_step": 1, "num_steps": 4}
    row |= {"learning_rate": 1.0, "loss": "x"}
    write_jsonl(tmp_path / "rows" / "metrics.jsonl", [row])
    row |= {"loss": 1.0, "loss_by_logsnr": [1, "x"]}
    write_jsonl(tmp_path / "bars" / "metrics.jsonl", [row])
    words = [w.replace("W", str(tmp_path)) for w in words]
    code, error = answer(*words, capsys=capsys)
    assert code == 2
    assert message in error
    assert error.startswith("progdist: ")
    assert error.count("\n") == 1


HUGE = 10**400
DEEP = json.loads("[" * 900 + "]" * 900)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", {"x": DEEP}, "nested too deeply"),
        ("starts.jsonl", {"defaults": 3}, "defaults is not an object: 3"),
        ("starts.jsonl", {"versions": [1]}, "versions is not an object: [1]"),
        ("starts.jsonl", {"devices": "x"}, "devices is not an object: 'x'"),
        ("starts.jsonl", {"commit": 3}, "commit is not a string: 3"),
        ("starts.jsonl", {"time": DEEP}, "line 1: nested too deeply"),
        ("metrics.jsonl", {"phase": 1.5}, "phase is not a whole number, 0 or more"),
        ("metrics.jsonl", {"phase": True}, "phase is not a whole number, 0 or more"),
        ("metrics.jsonl", {"num_steps": 0}, "num_steps is not a whole number, 1 or"),
        ("metrics.jsonl", {"step": HUGE}, "step is not a whole number, 0 or more: 1"),
        ("metrics.jsonl", {"loss": HUGE}, "loss is not a number: 1000"),
        ("metrics.jsonl", {"learning_rate": float("nan")}, "is not a finite number"),
        ("metrics.jsonl", {"steps_per_second": "x"}, "steps_per_second is not a num"),
        ("eval.jsonl", {"reference": DEEP}, "line 1: nested too deeply"),
        ("eval.jsonl", {"reference": {"count": 1}}, "reference lacks data, split"),
        ("eval.jsonl", {"floor": {"value": 1, "count": 0}}, "floor.count is not a wh"),
        ("eval.jsonl", {"seed": HUGE}, "seed is not a whole number: 1000"),
        ("eval.jsonl", {"gamma": [1]}, "gamma is not a number: [1]"),
        ("eval.jsonl", {"value": HUGE}, "value is not a number: 1000"),
        ("eval.jsonl", {"num_steps": HUGE}, "num_steps is not a whole number, 1 or"),
        ("eval.jsonl", {"num_steps": 15.5}, "num_steps is not a whole number, 1 or"),
        ("eval.jsonl", {"num_samples": "x"}, "num_samples is not a whole number, 0"),
        ("eval.jsonl", {"phase": None}, "phase is not a whole number, 0 or more: N"),
    ],
)
def test_a_malformed_field_is_named_with_what_is_accepted(
    tmp_path, capsys, name, change, said
):
    workdir = make_run(tmp_path / "r", phases=0)
    change_first(workdir / name, change)
    code, error = answer(workdir, capsys=capsys)
    assert code == 2
    assert error.startswith(f"progdist: {workdir / name}")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("metrics.jsonl", {"steps_per_second": None}),
        ("metrics.jsonl", {"steps_per_second": float("nan")}),
        ("metrics.jsonl", {"steps_per_second": 5e-324}),
        ("metrics.jsonl", {"loss": float("nan")}),
        ("metrics.jsonl", {"loss": 1e308}),
        ("starts.jsonl", {"versions": None, "defaults": None, "devices": {}}),
        ("starts.jsonl", {"time": "0001-01-01", "commit": None}),
        ("starts.jsonl", {"command": "\ud800\n"}),
        ("config.json", {"data": {}, "base": {}, "distill": {}}),
        ("config.json", {"data": None, "base": 3, "distill": [HUGE]}),
        ("config.json", {"data": {"name": 3, "image_shape": 7}}),
        ("eval.jsonl", {"metric": "\ud800\n$"}),
        ("eval.jsonl", {"value": float("nan"), "reference": None, "seed": None}),
        ("eval.jsonl", {"of another version": {"value": HUGE}}),
    ],
)
def test_odd_values_do_not_break_the_page(tmp_path, name, change):
    workdir = make_run(tmp_path / "r", phases=1)
    change_first(workdir / name, change)
    assert read(workdir).tables


def change_first(path: Path, change: dict) -> None:
    """Changes the first row of a file, or its only one."""
    first, *rest = path.read_text().splitlines()
    with deep_stack():
        rest.insert(0, json.dumps(json.loads(first) | change))
    path.write_text("".join(f"{line}\n" for line in rest))


@contextlib.contextmanager
def deep_stack():
    """Room to write what is nested deeply."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10 * limit)
    yield
    sys.setrecursionlimit(limit)


def test_a_page_that_cannot_be_written_is_code_4(workdir, capsys):
    code, error = answer(workdir, "--out=/proc/report.html", capsys=capsys)
    assert code == 4
    assert error.count("\n") == 1


def test_the_page_is_written_where_the_flags_say(workdir, tmp_path):
    command = [sys.executable, "-m", "progdist.report", str(workdir)]
    env = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin"}
    one, out = make_run(tmp_path / "one", phases=0), tmp_path / "two.html"
    for words, path in (
        ([], workdir / "report.html"),
        ([f"--out={out}"], out),
        ([str(one)], tmp_path / "report.html"),
    ):
        path.unlink(missing_ok=True)
        done = subprocess.run(
            [*command, *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / done.stdout.strip()) == path
        assert path.read_text().endswith("</html>")


def test_figures_are_written_into_a_directory_light_and_dark(workdir, tmp_path, capsys):
    main(
        ["report", str(workdir), f"--out={tmp_path}/p.html", f"--figures={tmp_path}/f"]
    )
    page, *figures = map(Path, capsys.readouterr().out.splitlines())
    assert page == tmp_path / "p.html"
    names = "by_num_steps", "comparison", "quality", "training", "trajectories"
    assert sorted(figures) == [tmp_path / "f" / f"{name}.png" for name in names]
    dark = [path.with_stem(f"{path.stem}_dark") for path in figures]
    assert set((tmp_path / "f").iterdir()) == {*figures, *dark}
    for paths in zip(figures, dark, strict=True):
        light, other = (np.asarray(Image.open(path)) for path in paths)
        assert light.shape == other.shape
        assert (light[0, 0] == 255).all()
        assert (other[0, 0] < 40).all()


# In a browser


VISIBLE = (
    "[...document.querySelectorAll('.grid img')].filter(i => i.offsetParent)"
    ".map(i => i.alt)"
)
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
SMALLEST = (
    "Math.min(...[...document.querySelectorAll('.chart text')]"
    ".filter(t => t.getBoundingClientRect().width)"
    ".map(t => { const m = t.getScreenCTM(); return"
    " parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b) }))"
)


@pytest.mark.skipif(browser.PROGRAM is None, reason="chromium is not installed")
def test_a_browser_shows_the_page_without_errors(workdir, one, tmp_path):
    two = report.write_page(
        [workdir, make_run(tmp_path / "other", phases=2)], tmp_path / "two.html"
    )
    with browser.chromium(tmp_path / "profile") as page:
        for path in (workdir / "report.html", two):
            for width, dark in ((360, False), (1280, False), (1280, True)):
                page.open(path.as_uri(), width, 800, dark)
                assert page.errors == []
                local = [r for r in page.requests if not r.startswith("data:")]
                assert local == [path.as_uri()]
                assert page.evaluate(TOO_WIDE) == 0
                assert page.evaluate(BROKEN) == 0
                assert page.evaluate(SMALLEST) > 9
                shot = page.screenshot(tmp_path / f"{path.stem}_{width}.png")
                with Image.open(shot) as screen:
                    assert screen.convert("L").getextrema() != (255, 255)


@pytest.mark.skipif(browser.PROGRAM is None, reason="chromium is not installed")
def test_arrow_keys_choose_the_samples(workdir, one, tmp_path):
    with browser.chromium(tmp_path / "profile") as page:
        page.open((workdir / "report.html").as_uri(), 360, 800)
        for n in (4, 2, 1):
            students = [a for a in page.evaluate(VISIBLE) if "student" in a]
            steps = "1 step" if n == 1 else f"{n} steps"
            assert students == [f"12 images of digits: student, {steps}"]
            page.evaluate(f"document.getElementById('steps-{n}').focus()")
            page.press("ArrowRight", 39)
