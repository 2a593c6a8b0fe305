"""Rows of metrics.jsonl, eval.jsonl and starts.jsonl: all their reading and writing.

Also the fields of a model's card, which is an object of the same kind.

The fields of a class below are those of the JSON object, in the same order. Rows of
older runs may lack fields that have a default; unknown fields are ignored.
"""

import dataclasses
import functools
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from progdist.workdir.files import FormatError, read_regular

NUM_BINS = 21  # as in progdist.diffusion.logsnr_bins, which must not be imported
_MAX_DEPTH = 20  # levels; anything nested deeper cannot be shown
_MAX_EXACT = 2**53  # beyond it a float cannot hold every whole number
_MAX_DRAWN = 1e100  # beyond it Matplotlib overflows

_Row = TypeVar("_Row")


class _Accepted(NamedTuple):
    """Values that a field accepts: in words, as a predicate, and their reader."""

    text: str
    holds: Callable[[Any], bool]
    make: Callable[..., Any] = lambda value: value  # or the dataclass of an object


def is_whole(value: Any, least: int = -_MAX_EXACT) -> bool:
    """Whether it is an int of at least `least` that a float holds exactly."""
    return type(value) is int and abs(value) < _MAX_EXACT and value >= least


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold; NaN is, true is not."""
    return isinstance(value, float) or is_whole(value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_NUMBER = _Accepted("a number", _is_number, float)
_FINITE = _Accepted(
    "a finite number", lambda v: _is_number(v) and abs(v) < _MAX_DRAWN, float
)
_WHOLE = _Accepted("a whole number", is_whole)
_COUNT = _Accepted("a whole number, 0 or more", lambda v: is_whole(v, 0))
_POSITIVE = _Accepted("a whole number, 1 or more", lambda v: is_whole(v, 1))
_TEXT = _Accepted("a string", lambda v: isinstance(v, str))
_OBJECT = _Accepted("an object", _is_object)
_NAMES = _Accepted(
    "a list of strings",
    lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v),
    tuple,
)
_OBJECTS = _Accepted(
    "a list of objects", lambda v: isinstance(v, list) and all(map(_is_object, v))
)
_LOSSES = _Accepted(
    f"a list of {NUM_BINS} numbers or nulls",
    lambda v: (
        isinstance(v, list)
        and len(v) == NUM_BINS
        and all(x is None or _is_number(x) for x in v)
    ),
)


@dataclass(frozen=True, kw_only=True)
class MetricsRow:
    """A row of metrics.jsonl: means over the updates since the previous row.

    Attributes:
      global_step: updates of all phases.
      phase: 0 for the base model, k for round k.
      num_steps: N, the number of network calls of the phase's model.
      step: updates of the phase.
      skipped: updates of the phase that were not finite.
      tflops_per_second: model FLOPs of the updates, 10^12 per second of all devices.
      utilisation: their share of the devices' peak; None if the peak is not known.
      loss_by_logsnr: mean loss in each log-SNR bin, None in empty ones.
    """

    global_step: Annotated[int, _COUNT]
    phase: Annotated[int, _COUNT]
    num_steps: Annotated[int, _POSITIVE]
    step: Annotated[int, _COUNT]
    loss: Annotated[float, _NUMBER]
    grad_norm: Annotated[float | None, _NUMBER] = None
    learning_rate: Annotated[float, _FINITE]
    skipped: Annotated[int | None, _COUNT] = None
    steps_per_second: Annotated[float | None, _NUMBER] = None
    tflops_per_second: Annotated[float | None, _NUMBER] = None
    utilisation: Annotated[float | None, _NUMBER] = None
    loss_by_logsnr: Annotated[Sequence[float | None], _LOSSES] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Reference images of a metric: `count` images of a split of the data."""

    data: Annotated[str, _TEXT]
    split: Annotated[str, _TEXT]
    count: Annotated[int, _COUNT]
    content: Annotated[str, _TEXT] = ""  # digest

    def __str__(self) -> str:
        return f"{self.count:,} of {self.data} ({self.split})"


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The metric between two disjoint halves of the real data.

    Attributes:
      value: the floor; for a Fréchet distance scaled to the row's numbers of images.
      measured: the value between the halves, if it differs.
      count: number of images in a half.
    """

    value: Annotated[float, _NUMBER]
    measured: Annotated[float | None, _NUMBER] = None
    count: Annotated[int, _POSITIVE]


# Results, and what the rows of earlier versions lack.
_NOT_COMPARED = "value", "milliseconds", "details", "floor", "class_names"


@dataclass(frozen=True, kw_only=True)
class _Measurement:
    """Methods of the rows of metrics."""

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object, with the details as fields and no gamma if None."""
        fields = dataclasses.asdict(self)
        details, floor = fields.pop("details"), fields.pop("floor")
        floor = floor and _without_nulls(floor)
        if fields.get("class_names") is not None:
            fields["class_names"] = list(fields["class_names"])
        return {**_without_nulls(fields), **details, "floor": floor}

    def repeats(self, other: Any) -> bool:
        """Whether both rows measure the same quantity, whatever the value."""
        one, two = (
            {name: v for name, v in vars(row).items() if name not in _NOT_COMPARED}
            for row in (self, other)
        )
        return one == two


@dataclass(frozen=True, kw_only=True)
class EvalRow(_Measurement):
    """A row of eval.jsonl: a metric of num_samples images and all that it depends on.

    Attributes:
      phase: phase of the model, 0 for the base model.
      role: "student", or "teacher" for the base model.
      num_steps: network calls per image.
      trained_steps: N that the model was trained for; N_0 for the base model.
      gamma: noise of the ancestral sampler; None for the others.
      params: digest of the parameters.
      output: parameterization of the network.
      class_names: names of the classes, by number; None for an unconditional model.
      precision: precision of the network's products; None for the default.
      seed: random seed of the initial noise.
      features: network whose features are compared, or "pixels".
      weights: digest of the weights of that network.
      milliseconds: time of sampling one image in a batch, without compilation.
      details: further values of the metric, such as "std".
      floor: its floor; None if there are too few real images.
    """

    phase: Annotated[int, _COUNT]
    role: Annotated[str, _TEXT]
    sampler: Annotated[str, _TEXT]
    num_steps: Annotated[int, _POSITIVE]
    trained_steps: Annotated[int, _POSITIVE]
    gamma: Annotated[float | None, _NUMBER] = None
    params: Annotated[str | None, _TEXT] = None
    output: Annotated[str | None, _TEXT] = None
    schedule: Annotated[str | None, _TEXT] = None
    class_names: Annotated[tuple[str, ...] | None, _NAMES] = field(
        default=None, compare=False
    )
    precision: Annotated[str | None, _TEXT] = None
    num_samples: Annotated[int, _COUNT]
    seed: Annotated[int | None, _WHOLE] = None
    features: Annotated[str | None, _TEXT] = None
    weights: Annotated[str | None, _TEXT] = None
    reference: Annotated[
        Reference | None, _Accepted("an object", _is_object, Reference)
    ] = None
    metric: Annotated[str, _TEXT]
    value: Annotated[float, _NUMBER]
    milliseconds: Annotated[float | None, _NUMBER] = field(default=None, compare=False)
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    floor: Annotated[Floor | None, _Accepted("an object", _is_object, Floor)] = None


@dataclass(frozen=True, kw_only=True)
class ImagesRow(_Measurement):
    """A metric of images from a file or folder, and all that it depends on.

    Attributes:
      images: path of the images.
      content: digest of the images.
      num_samples: number of images, the first ones.
      features, weights, details, floor: as in `EvalRow`.
    """

    images: Annotated[str, _TEXT]
    content: Annotated[str, _TEXT]
    num_samples: Annotated[int, _COUNT]
    features: Annotated[str, _TEXT] = ""
    weights: Annotated[str, _TEXT] = ""
    reference: Annotated[Reference, _Accepted("an object", _is_object, Reference)]
    metric: Annotated[str, _TEXT]
    value: Annotated[float, _NUMBER]
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    floor: Annotated[Floor | None, _Accepted("an object", _is_object, Floor)] = None


@dataclass(frozen=True, kw_only=True)
class StartRow:
    """A row of starts.jsonl: the start of a run, or its end.

    Attributes:
      class_names: names of the classes, by number; None for an unconditional model.
    """

    time: Annotated[str | None, _TEXT] = None  # UTC, ISO 8601
    end: Annotated[str | None, _TEXT] = None  # "done", or the class of the error
    global_step: Annotated[int | None, _COUNT] = None
    commit: Annotated[str | None, _TEXT] = None
    command: Annotated[str | None, _TEXT] = None
    versions: Annotated[dict[str, Any] | None, _OBJECT] = None
    platform: Annotated[str | None, _TEXT] = None
    host: Annotated[str | None, _TEXT] = None
    devices: Annotated[dict[str, Any] | None, _OBJECT] = None
    defaults: Annotated[dict[str, Any] | None, _OBJECT] = None
    numerics: Annotated[dict[str, Any] | None, _OBJECT] = None
    class_names: Annotated[tuple[str, ...] | None, _NAMES] = None


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Training data of a model."""

    name: Annotated[str, _TEXT]
    split: Annotated[str, _TEXT]
    count: Annotated[int, _COUNT]
    content: Annotated[str, _TEXT] = ""  # digest


@dataclass(frozen=True, kw_only=True)
class CardRow:
    """Fields of a model's card, but for the settings of the model."""

    num_steps: Annotated[int, _POSITIVE]
    phase: Annotated[int, _COUNT] = 1
    class_names: Annotated[Sequence[str], _NAMES] = ()
    data: Annotated[
        TrainingData | None, _Accepted("an object", _is_object, TrainingData)
    ] = None
    commit: Annotated[str | None, _TEXT] = None
    origin: Annotated[str | None, _TEXT] = None
    license: Annotated[str | None, _TEXT] = None
    distances: Annotated[Sequence[Any], _OBJECTS] = ()


def read_typed(kind: type[_Row], path: str | Path) -> list[_Row]:
    """Reads a file of rows of one class; see `read_rows`.

    Raises:
      FormatError: if a row is malformed.
      FileNotFoundError: if the folder of the file does not exist.
    """
    return [read_row(kind, row, path) for row in read_rows(path)]


def read_row(
    kind: type[_Row], row: Mapping[str, Any], where: str | Path, outer: str = ""
) -> _Row:
    """Reads a row from a JSON object.

    Args:
      kind: class of the row.
      row: the JSON object; null counts as missing where the default is None.
      where: file of the row, for the message.
      outer: name of the field that holds the object, if any.

    Raises:
      FormatError: if a field is missing or is not of the accepted kind.
    """
    schema, values = _schema(kind), {}
    needed = [name for name, (_, d) in schema.items() if d is dataclasses.MISSING]
    missing = [name for name in needed if name not in row]
    if missing:
        lacks = f"{outer or 'a row'} lacks {', '.join(missing)}"
        raise FormatError(f"{where}: {lacks}: {row!r:.200}")
    for name, (accepted, default) in schema.items():
        value = row.get(name, default)
        if value is default:
            continue
        path = f"{outer}.{name}" if outer else name
        if not accepted.holds(value):
            raise FormatError(f"{where}: {path} is not {accepted.text}: {value!r:.60}")
        nested = dataclasses.is_dataclass(accepted.make)
        values[name] = (
            read_row(accepted.make, value, where, path)  # pyright: ignore
            if nested
            else accepted.make(value)
        )
    if "details" in kind.__annotations__:
        values["details"] = {n: v for n, v in row.items() if n not in schema}
    return kind(**values)


@functools.cache
def _schema(kind: type) -> dict[str, tuple[_Accepted, Any]]:
    """Returns what each field accepts, and its default."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        f.name: (hints[f.name].__metadata__[0], f.default)
        for f in dataclasses.fields(kind)
        if typing.get_origin(hints[f.name]) is Annotated
    }


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Reads a JSON-lines file that a run may be appending to.

    A last line without a newline is dropped unless it is complete, since its writer was
    interrupted or is still writing. A missing file has no rows.

    Raises:
      FormatError: if any other line is not a JSON object; names file and line.
      FileNotFoundError: if the folder of the file does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    if not path.exists():
        return []
    # Bytes, since an interrupted write can end inside a character.
    *lines, tail = read_regular(path).split(b"\n")
    rows = [
        parse(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    return rows + _parse_tail(tail)


def parse(text: bytes, where: str) -> dict[str, Any]:
    """Reads a JSON object; `where` is for the message.

    Raises:
      FormatError: if the text is something else.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise FormatError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"{where}: not JSON: {error}") from None
    # Counts brackets first, which is cheap; hardly any row has so many.
    if text.count(b"[") + text.count(b"{") > _MAX_DEPTH and _is_deep(value):
        raise FormatError(f"{where}: nested too deeply")
    if not isinstance(value, dict):
        raise FormatError(f"{where}: not a JSON object: {value!r:.60}")
    return value


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MAX_DEPTH):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
    return bool(level)


def _parse_tail(line: bytes) -> list[dict[str, Any]]:
    try:
        return [parse(line, "last line")]
    except FormatError:
        return []
