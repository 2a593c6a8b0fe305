"""The first sentences about a run: its students compared with their teacher."""

from collections.abc import Iterator

from markupsafe import Markup

from progdist.report.read.evaluations import Group, Line, is_higher_better
from progdist.report.read.run import Run
from progdist.report.text import number_text, steps_text

USUAL_STEPS = 4  # the student shown first, if there is one


def headline(run: Run) -> Markup:
    """Returns the sentences about the first metric in `eval.jsonl`."""
    return Markup(" ").join(_sentences(run))


def _sentences(run: Run) -> Iterator[Markup]:
    group = run.groups[0] if run.groups else None
    lines = {n.num_steps: n for n in group.lines() if n.student} if group else {}
    if group and lines:
        fewest = lines[min(lines)]
        first = lines.get(USUAL_STEPS, fewest)
        yield from _of_first(group, first)
        if fewest is not first:
            yield _of_fewest(group, fewest)
    elif group and group.teacher is not None:
        yield from _of_teacher(group)
    else:
        yield Markup("Nothing has been evaluated yet.")
    if group and group.floor:
        floor = number_text(group.floor.value)
        yield Markup("The floor, between real images, is {}.").format(floor)


def _of_first(group: Group, line: Line) -> Iterator[Markup]:
    full, metric = group.full_steps, f"{group.kind.metric}, {group.direction}"
    if line.ratio and full:
        yield Markup(
            "<strong>{:g} times fewer network calls at {} times the teacher's {}."
            "</strong>"
        ).format(full / line.num_steps, number_text(line.ratio), _noun(group))
    teacher = ""
    if group.teacher is not None:
        teacher = f", the teacher {number_text(group.teacher)} in {full} steps"
    words = line.num_steps, _value(line), metric, teacher
    yield Markup("The {}-step student reaches {} ({}){}.").format(*words)


def _of_fewest(group: Group, line: Line) -> Markup:
    ratio = f", {number_text(line.ratio)} times the teacher's" if line.ratio else ""
    words = line.num_steps, _value(line), ratio and f"{ratio} {_noun(group)}"
    return Markup("The {}-step student reaches {}{}.").format(*words)


def _of_teacher(group: Group) -> Iterator[Markup]:
    yield Markup("The teacher reaches <strong>{}</strong> in {} ({}, {}).").format(
        number_text(group.teacher),
        steps_text(group.full_steps or 0),
        group.kind.metric,
        group.direction,
    )
    yield Markup("No student has been evaluated yet.")


def _noun(group: Group) -> str:
    return "score" if is_higher_better(group.kind.metric) else "distance"


def _value(line: Line) -> str:
    return number_text(line.student.value if line.student else None)
