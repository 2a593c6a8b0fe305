"""Readers and figures of the report, on whole and on damaged files."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from PIL import Image

from progdist import report
from progdist.errors import exit_with
from progdist.report.figures.curves import curves_figure, smooth
from progdist.report.figures.quality import quality_figure
from progdist.report.figures.samples import Row, rows_figure
from progdist.report.figures.style import DARK, FAINT, PAPER, STUDENT, WIDTH, darken
from progdist.report.figures.trajectories import trajectories_figure, visible
from progdist.report.read.curves import read_curves
from progdist.report.read.evaluations import Group, groups
from progdist.report.read.samples import Samples
from progdist.workdir.rows import EvalRow, read_row, read_rows, read_typed
from tests.workdirs import (
    N_0,
    PHASES,
    REAL,
    evaluation,
    evaluations,
    images,
    make_workdir,
    metrics,
    trajectories,
    write_jsonl,
    write_nearest,
)

PAIRS = [(k, 100 + k) for k in range(1, PHASES + 1)]  # student and undistilled


def row_of(evaluation: dict) -> EvalRow:
    return read_row(EvalRow, evaluation, "eval.jsonl")


def place_of(picture: np.ndarray, image: np.ndarray, scale: int) -> tuple[int, int]:
    """Finds where the image, scaled up, stands in the picture."""
    block = image.repeat(scale, 0).repeat(scale, 1)
    h, w = block.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(picture, (h, w), (0, 1))
    # The corners first: comparing every window whole would take seconds.
    ends = np.s_[:: h - 1, :: w - 1]
    hits = (windows[..., *ends] == np.moveaxis(block[ends], -1, 0)).all((2, 3, 4))
    found = [
        (y, x)
        for y, x in np.argwhere(hits)
        if (picture[y : y + h, x : x + w] == block).all()
    ]
    assert len(found) == 1
    return found[0]


# Rows


def test_cut_anywhere_the_file_reads_as_its_whole_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": i, "name": "σ"} for i in range(3)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    for size in range(len(text) + 1):
        path.write_bytes(text[:size])
        # A row is whole once its brace is there, with or without the newline.
        assert read_rows(path) == rows[: text[:size].count(b"}")]


@pytest.mark.parametrize(
    "bad",
    ['{"step": 1', "[1, 2]", '{"a": 1}{"a": 2}', "1" * 5000, "\udc00", "\x00"],
)
def test_a_bad_line_before_the_last_is_named(tmp_path, bad):
    path = tmp_path / "eval.jsonl"
    lines = f'{{"step": 0}}\n{bad}\n{{"step": 2}}\n'
    path.write_bytes(lines.encode(errors="surrogatepass"))
    with pytest.raises(
        report.FormatError, match=r"eval\.jsonl, line 2: not (a )?JSON"
    ) as error:
        read_rows(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [19, 20, 21, 900, 100_000])
def test_a_row_is_nested_as_deeply_as_it_can_be_shown(tmp_path, depth):
    path = tmp_path / "eval.jsonl"
    # What merely has many lists is no deeper for them.
    inner = "[" * (depth - 1) + "]" * (depth - 1)
    path.write_text(f'{{"a": {inner}, "b": [{", ".join(["[]"] * 100)}]}}\n')
    if depth <= 20:
        assert read_rows(path)
    else:
        with pytest.raises(report.FormatError, match=r"line 1: nested too deeply$"):
            read_rows(path)


def test_a_malformed_file_is_bad_input_to_every_command(capsys):
    def main(argv):
        raise report.FormatError("eval.jsonl, line 3: not JSON")

    with pytest.raises(SystemExit) as ended:
        exit_with(main, [])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "progdist: eval.jsonl, line 3: not JSON\n"


def test_a_whole_last_line_is_not_excused(tmp_path):
    path = tmp_path / "eval.jsonl"
    path.write_text('{"step": 0}\n{"step"\n')
    with pytest.raises(ValueError, match="line 2"):
        read_rows(path)


def test_no_file_yet_has_no_rows_but_no_folder_is_an_error(tmp_path):
    assert read_rows(tmp_path / "eval.jsonl") == []
    with pytest.raises(FileNotFoundError, match="no-run"):
        read_rows(tmp_path / "no-run" / "eval.jsonl")


def test_the_later_measurement_counts_and_metrics_do_not_mix(tmp_path):
    rows = [
        evaluation(1, "student", "ddim", 8, 3.0),
        evaluation(1, "student", "ddim", 8, 40.0, metric="FD-other"),
        evaluation(1, "student", "ddim", 8, 2.5),
    ]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    assert [e.value for e in report.read_evaluations(tmp_path)] == [2.5]
    assert [e.value for e in report.read_evaluations(tmp_path, "FD-other")] == [40.0]


def test_a_row_without_a_field_is_named(tmp_path):
    write_jsonl(tmp_path / "eval.jsonl", [{"phase": 0, "value": 1.0}])
    with pytest.raises(ValueError, match=r"eval\.jsonl: a row lacks role, sampler"):
        report.read_evaluations(tmp_path)
    write_jsonl(tmp_path / "metrics.jsonl", [{"phase": 0, "loss": 1.0}])
    with pytest.raises(ValueError, match=r"metrics\.jsonl: a row lacks"):
        report.write_curves(tmp_path)


# Grids and files


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9)),
    st.sampled_from([1, 3]),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_every_image_is_in_its_cell_and_all_else_is_white(size, ch, upscale, padding):
    r, c, h = size
    drawn = np.random.default_rng(0).integers(0, 255, (r, c, h, h + 1, ch), np.uint8)
    grid = report.image_grid(drawn, upscale, padding)
    height, width = h * upscale + padding, (h + 1) * upscale + padding
    assert grid.shape == (r * height - padding, c * width - padding, ch)
    rest = grid.copy()
    for i in range(r):
        for j in range(c):
            top, left = i * height, j * width
            cell = np.s_[top : top + h * upscale, left : left + (h + 1) * upscale]
            scaled = drawn[i, j].repeat(upscale, 0).repeat(upscale, 1)
            np.testing.assert_array_equal(grid[cell], scaled)
            rest[cell] = 255
    assert (rest == 255).all()


@pytest.mark.parametrize("h", [4, 8, 28, 32, 64])
def test_an_image_is_at_least_48_pixels_by_itself(h):
    side = report.image_grid(np.zeros((1, 1, h, h, 1), np.uint8)).shape[0]
    assert side >= 48
    assert side % h == 0
    assert side < 48 + h or side == h


@pytest.mark.parametrize(("ch", "mode"), [(1, "L"), (3, "RGB")])
def test_a_png_holds_the_very_pixels(tmp_path, ch, mode):
    image = images(0, n=1, shape=(5, 7, ch))[0]
    path = report.save_png(tmp_path / "folder" / "a.png", image)
    with Image.open(path) as picture:
        assert picture.mode == mode
        np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), image)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = report.save_png(tmp_path / "a.png", images(0, n=1)[0])
    before = path.read_bytes()

    def fail(self, file, **kwargs):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        report.save_png(path, images(1, n=1)[0])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_png_comes_into_place_by_renaming_alone(tmp_path, monkeypatch):
    names = []
    save = Image.Image.save

    def record(self, file, **kwargs):
        names.append(Path(file.name))
        save(self, file, **kwargs)

    monkeypatch.setattr(Image.Image, "save", record)
    path = report.save_png(tmp_path / "a.png", images(0, n=1)[0])
    assert path.exists()
    assert path not in names
    assert {name.parent for name in names} == {tmp_path}


# Samples


def test_a_label_stands_at_the_middle_of_its_row():
    drawn = np.zeros((2, 8, 8, 1), np.uint8)
    rows = [Row("a", drawn), Row("b", drawn, has_gap=True), Row("c", drawn)]
    figure = rows_figure(rows)
    height = figure.get_figheight() * figure.dpi
    middles = [t.get_position()[1] * height for t in figure.texts]
    expected = [image.oy + 40 for image in figure.images]
    np.testing.assert_allclose(middles, expected, atol=1)
    pitches = np.diff(middles)
    assert -pitches[0] > -pitches[1] == pytest.approx(84)


def test_samples_are_named_by_who_drew_them_and_in_how_many_steps():
    labels = [Samples(images(k), N_0 >> k, k).label for k in (0, 1, PHASES)]
    assert labels == ["teacher, 16 steps", "student, 8 steps", "student, 1 step"]


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_rows_are_phases_and_columns_are_noises(tmp_path, shape):
    path = report.write_samples(make_workdir(tmp_path, shape=shape))
    picture = np.asarray(Image.open(path))
    scale = -(-80 // shape[0])
    places = np.array(
        [
            [place_of(picture, images(k, shape=shape)[j], scale) for j in range(3)]
            for k in range(PHASES + 1)
        ]
    )
    assert (np.ptp(places[..., 0], axis=1) == 0).all()
    assert (np.ptp(places[..., 1], axis=0) == 0).all()
    assert (np.diff(places[..., 0], axis=0) > 0).all()
    assert (np.diff(places[..., 1], axis=1) > 0).all()


def test_each_phase_gets_a_plain_grid_of_all_its_images(tmp_path):
    report.write_grids(make_workdir(tmp_path))
    for k in range(PHASES + 1):
        grid = np.asarray(Image.open(tmp_path / "samples" / f"phase_{k:02d}.png"))
        assert grid.shape == (3 * 50 - 2, 4 * 50 - 2)
        np.testing.assert_array_equal(grid[100:148:6, 150:198:6], images(k)[11, ..., 0])


def test_each_student_stands_above_the_undistilled_model(tmp_path):
    path = report.write_comparison(make_workdir(tmp_path))
    picture = np.asarray(Image.open(path))
    drawn = [images(0), *(images(k) for pair in PAIRS for k in pair)]
    places = np.array([place_of(picture, image[1], 10) for image in drawn])
    assert (np.diff(places[:, 0]) > 0).all()
    assert (places[:, 1] == places[0, 1]).all()


def test_real_images_head_the_comparison(tmp_path):
    workdir = make_workdir(tmp_path)
    write_nearest(workdir)
    picture = np.asarray(Image.open(report.write_comparison(workdir)))
    real, teacher = images(REAL), images(0)
    assert place_of(picture, real[0], 10)[0] < place_of(picture, teacher[0], 10)[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"real": None}, "lacks real"),
        ({"N4_nearest": None}, "lacks N4_nearest"),
        ({"real": np.zeros((2, 8, 8, 1))}, "real is float64 (2, 8, 8, 1), not uint8"),
        ({"num_images": np.array([1, 2])}, "num_images is int64 (2), not one integer"),
        ({"N4_distances": np.ones(2, np.float32)}, "the arrays of N4 differ in"),
    ],
)
def test_malformed_neighbours_are_named_in_one_line(tmp_path, change, said):
    path = write_nearest(make_workdir(tmp_path), **change)
    with pytest.raises(report.FormatError) as error:
        report.write_comparison(tmp_path)
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)


def test_an_unreadable_file_is_named(tmp_path):
    make_workdir(tmp_path, phases=0)
    (tmp_path / "samples" / "phase_01.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match=r"phase_01\.npz: not a whole npz file"):
        report.write_samples(tmp_path)
    np.savez(tmp_path / "samples" / "phase_01.npz", images=images(1))
    with pytest.raises(ValueError, match=r"phase_01\.npz: lacks num_steps, phase"):
        report.write_samples(tmp_path)
    (tmp_path / "samples" / "trajectories.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"trajectories\.npz: not a whole npz file"):
        report.write_trajectories(tmp_path)


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def drawn_by(**changes):
    return npz(**{"images": images(0), "num_steps": 4, "phase": 1} | changes)


def archive(name, content, **info):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr(name, content, **info)
    return file.getvalue()


def damaged(content):
    """Bytes of what is compressed are others."""
    return content[:100] + bytes(200) + content[300:]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (damaged(drawn_by()), "not a whole npz file: "),
        (npy(images(0)), "lacks num_steps, phase"),
        (
            npz(images=np.array([{}])),
            "images is an array of Python objects",
        ),
        (archive("images.npy", b"\x93NUMPY\x09\x00"), "not a whole npz file: "),
        (archive("images", b"text"), "images is not an array"),
        (drawn_by(num_steps=[4, 2]), "num_steps is int64 (2), not one integer"),
        (drawn_by(num_steps=4.0), "num_steps is float64 (), not one integer"),
        (drawn_by(num_steps=0), "num_steps is 0, not 1 or more"),
        (drawn_by(phase=-1), "phase is -1, not 0 or more"),
        (drawn_by(phase="x"), "phase is <U1 (), not one integer"),
        (
            drawn_by(images=np.zeros((2, 8, 8, 1))),
            "images is float64 (2, 8, 8, 1), not uint8 (n h w c)",
        ),
        (drawn_by(images=images(0)[0]), "images is uint8 (8, 8, 1), not"),
        (drawn_by(images=images(0)[:0]), "images is uint8 (0, 8, 8, 1), not"),
        (drawn_by(images=images(0, shape=(8, 8, 2))), "(12, 8, 8, 2), not"),
        (drawn_by(images=images(0, shape=(9, 8, 1))), "images are (9, 8, 1), those of"),
    ],
)
def test_malformed_samples_are_named_in_one_line(tmp_path, content, said):
    path = make_workdir(tmp_path, phases=0) / "samples" / "phase_01.npz"
    path.write_bytes(content)
    with pytest.raises(report.FormatError) as error:
        report.write_samples(tmp_path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


STATES = np.zeros((3, 2, 8, 8, 1), np.float32)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npz(N2=STATES[:, 0, 0, 0, 0]), "N2 is float32 (3), not floating (states k h"),
        (npz(N2=STATES.astype(np.uint8)), "N2 is uint8 (3, 2, 8, 8, 1), not floating"),
        (npz(N2=STATES[:, :0]), "N2 is float32 (3, 0, 8, 8, 1), not floating"),
        (npz(N2=STATES, N1=STATES[:2, :1]), "the states differ in shape"),
        (npz(N4=STATES), "N4 has 3 states, not 5"),
        (npz(N0=STATES[:1]), "an array is called 'N0', not N4 or N1"),
        (npz(x=STATES), "an array is called 'x', not N4 or N1"),
        (damaged(npz(N2=np.random.default_rng(0).normal(size=999))), "not a whole npz"),
    ],
)
def test_malformed_trajectories_are_named_in_one_line(tmp_path, content, said):
    path = make_workdir(tmp_path, phases=0) / "samples" / "trajectories.npz"
    path.write_bytes(content)
    with pytest.raises(report.FormatError) as error:
        report.write_trajectories(tmp_path)
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)


def test_states_that_are_not_numbers_are_grey():
    state = np.array([np.nan, np.inf, -np.inf, 0], np.float32).reshape(2, 2, 1)
    assert visible(state)[..., 0].tolist() == [[0.5, 1.0], [0.0, 0.5]]


# Quality


def group_of(workdir: Path) -> Group:
    return groups(read_typed(EvalRow, workdir / "eval.jsonl"))[0]


def lines_of(figure, panel=0) -> dict[str, list[list[float]]]:
    lines = figure.axes[panel].lines
    return {line.get_label(): line.get_xydata().tolist() for line in lines}


def test_quality_shows_every_value_at_its_number_of_calls(tmp_path):
    drawn = lines_of(quality_figure({"": group_of(make_workdir(tmp_path))}))
    steps = [1, 2, 4, 8]
    assert drawn["student"] == [[n, 2 + 1 / n] for n in steps]
    assert drawn["teacher, DDIM"] == [[n, 2 + 16 / n] for n in steps] + [[16, 2]]
    assert drawn["teacher, ancestral"] == [[n, 2 + 32 / n] for n in steps]
    assert {y for _, y in drawn["teacher at 16 steps"]} == {2.0}
    assert "real images (floor)" not in drawn


def test_quality_shows_the_floor_and_the_time_of_an_image(tmp_path):
    floor = {"floor": {"value": 0.5, "measured": 0.7, "count": 9}}
    rows = [r | floor | {"milliseconds": 0.1 * r["num_steps"]} for r in evaluations(2)]
    del rows[-1]["milliseconds"]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    figure = quality_figure({"": group_of(tmp_path)}, ["calls", "milliseconds"])
    calls, times = lines_of(figure), lines_of(figure, 1)
    assert {y for _, y in calls["real images (floor)"]} == {0.5}
    for name in ("student", "teacher, DDIM"):
        expected = [[0.1 * n, y] for n, y in calls[name]]
        np.testing.assert_allclose(times[name], expected)
    assert len(times["teacher, ancestral"]) == len(calls["teacher, ancestral"]) - 1
    assert figure.axes[1].get_xscale() == "log"
    with Image.open(report.write_quality(tmp_path)) as picture:
        assert picture.width > 1.5 * 150 * WIDTH  # both panels


def test_quality_axes_are_logarithmic_with_whole_numbers_of_calls(tmp_path):
    axes = quality_figure({"": group_of(make_workdir(tmp_path))}).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    names = [tick.get_text() for tick in axes.get_xticklabels()]
    assert names == ["1", "2", "4", "8", "16"]
    assert (
        np.diff(axes.transData.transform([(int(n), 1) for n in names])[:, 0])
    ).min() > 0
    title = axes.get_title(loc="left")
    assert title == "FD-pixels of 2,000 samples, lower is better"


def test_the_best_of_the_other_solvers_has_one_line(tmp_path):
    rows = [
        evaluation(k, role, sampler, 16 >> k, 2.0 + abs(k - best))
        for role in ("student", "teacher")
        for best, sampler in enumerate(["heun", "rk4"], start=1)
        for k in (1, 2, 3)
    ]
    write_jsonl(tmp_path / "eval.jsonl", [*rows, *evaluations(0)])
    drawn = lines_of(quality_figure({"": group_of(tmp_path)}))
    best = [[2, 3.0], [4, 2.0], [8, 2.0]]
    assert drawn["teacher, best other solver"] == best
    assert drawn["student, best other solver"] == best
    write_jsonl(tmp_path / "eval.jsonl", [*rows[:1], *evaluations(0)])
    drawn = lines_of(quality_figure({"": group_of(tmp_path)}))
    assert drawn["student, heun"] == [[8, 2.0]]


def test_values_of_other_sample_sizes_are_not_joined(tmp_path):
    few = [r | {"num_samples": 50, "value": 9.0} for r in evaluations(2)]
    write_jsonl(tmp_path / "eval.jsonl", [*evaluations(2), *few])
    drawn = lines_of(quality_figure({"": group_of(tmp_path)}))
    assert drawn["student"] == [[4, 2.25], [8, 2.125]]


@pytest.mark.parametrize("samplers", [1, 5])
def test_a_legend_below_the_axes_names_the_lines(samplers):
    names = ("ddim", "ancestral", "dpm", "heun", "rk4")[:samplers]
    rows = [
        row_of(evaluation(1, role, sampler, 2, 2.0 + i / 50) | {"trained_steps": 2})
        for role in ("student", "teacher")
        for i, sampler in enumerate(names)
    ]
    figure = quality_figure({"": groups(rows)[0]})
    (axes,), (legend,) = figure.axes, figure.legends
    figure.draw_without_rendering()
    names = [text.get_text() for text in legend.get_texts()]
    assert sorted(names) == sorted(str(line.get_label()) for line in axes.lines)
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 < box.y1 <= axes.get_tightbbox().y0
    assert axes.get_window_extent().height > 2 * figure.dpi


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 1e300, 5e-324])
def test_a_value_that_a_log_axis_cannot_show_is_left_out(tmp_path, value):
    rows = [*evaluations(1), evaluation(2, "student", "ddim", 4, value)]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    assert report.write_quality(tmp_path).stat().st_size > 10_000


# Tables


def cells(workdir: Path) -> list[list[str]]:
    table = report.closing_table(workdir)
    columns = [[column.header, *column.cells] for column in table.columns]
    return [list(map(str, row)) for row in zip(*columns, strict=True)]


def test_the_table_has_the_numbers_most_calls_first(tmp_path):
    workdir = make_workdir(tmp_path)
    title = report.closing_table(workdir).title
    assert title == "FD-pixels of 2,000 samples, lower is better"
    header, *lines = cells(workdir)
    assert header == [
        "network calls",
        "student",
        "teacher DDIM",
        "teacher ancestral",
        "student / teacher at 16",
    ]
    assert lines == [
        ["16", "–", "2.00", "–", "–"],
        ["8", "2.12", "4.00", "6.00", "1.06"],
        ["4", "2.25", "6.00", "10.0", "1.12"],
        ["2", "2.50", "10.0", "18.0", "1.25"],
        ["1", "3.00", "18.0", "34.0", "1.50"],
    ]


def test_the_table_has_the_best_other_solver_and_the_floor(tmp_path):
    floor = {"value": 1.25, "measured": 2.5, "count": 100}
    others = [("euler", 3.0), ("heun", 2.5), ("rk4", 2.75)]
    rows = [evaluation(0, "teacher", name, N_0, value) for name, value in others]
    rows = [row | {"floor": floor} for row in evaluations(1) + rows]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    table = report.closing_table(tmp_path)
    assert table.title == "FD-pixels of 2,000 samples, lower is better, floor 1.25"
    header, first, second = cells(tmp_path)
    assert header[4] == "best other solver"
    assert (first[4], second[4]) == ("2.50 heun", "–")
    assert table.caption is None


def test_values_of_other_numbers_of_samples_are_not_in_the_table(tmp_path):
    few = evaluation(0, "teacher", "ddim", N_0, 1.0) | {"num_samples": 50}
    write_jsonl(tmp_path / "eval.jsonl", [*evaluations(1), few])
    table = report.closing_table(tmp_path)
    assert "2,000 samples" in table.title
    assert cells(tmp_path)[1][2] == "2.00"
    assert table.caption == "The report has the values of 50 samples"
    assert report.markdown_table(tmp_path).endswith("values of 50 samples.\n")


def test_without_the_teachers_number_there_is_no_ratio(tmp_path):
    write_jsonl(tmp_path / "eval.jsonl", [evaluation(1, "student", "ddim", 4, 1234.5)])
    assert cells(tmp_path)[-1] == ["4", "1,234", "–", "–", "–"]


def test_the_markdown_table_has_the_numbers_most_calls_first(tmp_path):
    lines = report.markdown_table(make_workdir(tmp_path)).splitlines()
    assert lines[0] == "FD-pixels of 2,000 samples, lower is better."
    assert lines[2:] == [
        "| network calls | student | teacher DDIM | teacher ancestral "
        "| student / teacher at 16 |",
        "| ---: | ---: | ---: | ---: | ---: |",
        "| 16 | – | 2.00 | – | – |",
        "| 8 | 2.12 | 4.00 | 6.00 | 1.06 |",
        "| 4 | 2.25 | 6.00 | 10.0 | 1.12 |",
        "| 2 | 2.50 | 10.0 | 18.0 | 1.25 |",
        "| 1 | 3.00 | 18.0 | 34.0 | 1.50 |",
    ]


# Training curves


def test_each_phase_has_its_losses_on_a_scale_of_its_own(tmp_path):
    curves = read_curves(make_workdir(tmp_path))
    figure = curves_figure(curves)
    base, rate, *rounds = figure.axes
    assert [axes.get_title() for axes in rounds] == [
        "8 steps", "4 steps", "2 steps", "1 step",
    ]  # fmt: skip
    for axes, curve in zip((base, *rounds), curves, strict=True):
        assert axes.get_yscale() == "log"
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), range(20))
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), curve.loss)
        low, high = axes.get_ylim()
        assert low < curve.loss.min() < curve.loss.max() < high < 40 * low
    assert "its own teacher" in figure.subfigs[1].get_suptitle()
    assert [line.get_xdata()[0] for line in rate.lines] == [0, 20, 40, 60, 80]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({}, ["0", "0.001"]),
        ({"base": {"learning_rate": 2e-3}, "distill": {"learning_rate": 5e-4}},
         ["0", "0.0005", "0.002"]),
        ({"base": {"learning_rate": "x"}, "distill": 3}, ["0", "0.001"]),
    ],
)  # fmt: skip
def test_the_configured_learning_rate_is_named(tmp_path, config, names):
    (make_workdir(tmp_path) / "config.json").write_text(json.dumps(config))
    rate = curves_figure(read_curves(tmp_path)).axes[1]
    assert [tick.get_text() for tick in rate.get_yticklabels()] == names


def test_the_last_row_of_a_repeated_update_counts(tmp_path):
    rows = metrics(0)
    again = [{**row, "loss": 7.0} for row in rows[10:15]]
    write_jsonl(tmp_path / "metrics.jsonl", [*rows[:15], *again, *rows[15:]])
    (curve,) = read_curves(tmp_path)
    assert curve.global_step.tolist() == list(range(20))
    assert (curve.loss == 7.0).nonzero()[0].tolist() == [10, 11, 12, 13, 14]


def test_the_first_row_of_a_run_can_be_drawn(tmp_path):
    write_jsonl(tmp_path / "metrics.jsonl", [{**metrics(0)[0], "learning_rate": 0.0}])
    assert report.write_curves(tmp_path).exists()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=40),
    st.integers(1, 60),
)
def test_smoothing_keeps_length_constants_and_bounds(values, window):
    y = np.array(values)
    smoothed = smooth(y, window)
    assert smoothed.shape == y.shape
    assert smoothed.min() >= y.min() - 1e-9
    assert smoothed.max() <= y.max() + 1e-9
    np.testing.assert_allclose(smooth(np.full_like(y, 3.0), window), 3.0)


# Trajectories


def arrows(axes) -> list[tuple[float, float, float]]:
    """Begin, end and height of each arrow."""
    found = [t for t in axes.texts if isinstance(t, Annotation)]
    return [(t.xyann[0], t.xy[0], t.xy[1]) for t in found]


def test_there_is_one_arrow_per_network_call():
    axes = trajectories_figure(trajectories()).axes[0]
    by_height: dict[float, int] = {}
    for *_, y in arrows(axes):
        by_height[y] = by_height.get(y, 0) + 1
    downwards = [by_height[y] for y in sorted(by_height, reverse=True)]
    assert downwards == [4, 2, 1, 4, 2, 1]
    assert len(axes.images) == 2 * (5 + 3 + 2)


def test_the_one_step_arrow_spans_the_four_arrows():
    found = arrows(trajectories_figure(trajectories(k=1)).axes[0])
    top, bottom = max(y for *_, y in found), min(y for *_, y in found)
    four = [a for a in found if a[2] == top]
    (one,) = [a for a in found if a[2] == bottom]
    assert one[0] == min(begin for begin, *_ in four)
    assert one[1] == max(end for _, end, _ in four)


def test_equal_times_stand_in_one_column():
    axes = trajectories_figure(trajectories(k=1)).axes[0]
    columns: dict[float, int] = {}
    for image in axes.images:
        left, right, *_ = image.get_extent()
        x = round((left + right) / 2, 9)
        columns[x] = columns.get(x, 0) + 1
    assert [columns[x] for x in sorted(columns)] == [3, 1, 2, 1, 3]
    names = {"noise $z_1$", "$z_{3/4}$", "$z_{1/2}$", "$z_{1/4}$", "image $x$"}
    found = [t for t in axes.texts if t.get_text() in names]
    at = [t.get_position()[0] for t in found]
    np.testing.assert_allclose(at, sorted(columns), atol=1e-9)
    np.testing.assert_allclose(np.diff(at), np.diff(at)[0])


def test_a_state_is_shown_as_it_is_within_the_range():
    paths = {1: np.linspace(-2, 2, 2 * 64).reshape(2, 1, 8, 8, 1).astype(np.float32)}
    shown = trajectories_figure(paths).axes[0].images[0].get_array()
    expected = np.clip((paths[1][0, 0] + 1) / 2, 0, 1)
    np.testing.assert_allclose(np.asarray(shown), expected.repeat(3, -1), atol=1e-6)


def test_students_of_many_steps_are_left_out(tmp_path):
    (tmp_path / "samples").mkdir()
    states = {f"N{n}": z for n, z in trajectories(steps=(16,)).items()}
    np.savez(tmp_path / "samples" / "trajectories.npz", **states)
    assert report.write_trajectories(tmp_path) is None


# The whole


WRITERS = [
    report.write_samples,
    report.write_comparison,
    report.write_quality,
    report.write_trajectories,
    report.write_curves,
]


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_every_picture_fits_a_page_and_a_download(tmp_path, shape):
    workdir = make_workdir(tmp_path, shape=shape)
    for write in WRITERS:
        path = write(workdir)
        with Image.open(path) as picture:
            assert 800 <= picture.width <= 1500
            assert picture.height <= 1500
        assert path.stat().st_size < 1_000_000
    left = {p.name for p in workdir.rglob(".*")}
    assert not left


def test_dark_figures_keep_no_colour_of_light_ones(tmp_path):
    workdir = make_workdir(tmp_path)
    for figure in (
        quality_figure({"": group_of(workdir)}),
        curves_figure(read_curves(workdir)),
        rows_figure([Row("a", images(0), STUDENT)]),
    ):
        figure.draw_without_rendering()
        darken(figure)
        figure.draw_without_rendering()
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        colours = {to_hex(text.get_color()) for text in texts}
        lines = [line for line in figure.findobj(Line2D) if line.get_visible()]
        colours |= {to_hex(line.get_color()) for line in lines}
        assert colours <= set(DARK.values())


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("theme", [dict(zip(DARK, DARK, strict=True)), DARK])
def test_text_in_any_colour_can_be_read(theme):
    paper = luminance(theme[PAPER])
    for colour in set(DARK) - {PAPER, FAINT}:
        high, low = sorted((luminance(theme[colour]), paper), reverse=True)
        assert (high + 0.05) / (low + 0.05) > 4.5


def test_with_the_teacher_alone_there_are_partial_pictures(tmp_path):
    workdir = make_workdir(tmp_path, phases=0)
    drawn = {write.__name__: write(workdir) for write in WRITERS}
    assert drawn.pop("write_comparison") is None
    assert drawn.pop("write_trajectories") is None
    assert all(path.stat().st_size > 5_000 for path in drawn.values())
    assert cells(workdir)[1:] == [["16", "–", "2.00", "–", "–"]]


def test_nothing_is_drawn_of_an_empty_workdir(tmp_path):
    assert [write(tmp_path) for write in WRITERS] == [None] * len(WRITERS)
    assert not list(tmp_path.iterdir())
    assert report.closing_table(tmp_path).row_count == 0
    assert report.closing_table(tmp_path).title == "No evaluations yet"
    assert report.markdown_table(tmp_path) == "No evaluations yet.\n"


def test_the_report_loads_neither_jax_nor_pyplot():
    code = (
        "import sys, progdist.report;"
        "print({'jax', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "set()", done.stderr
