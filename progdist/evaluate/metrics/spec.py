"""The metrics, each as one record."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, get_args

from progdist.config import Metric
from progdist.evaluate.metrics import neighbours, scores
from progdist.evaluate.metrics.collector import MAX_VECTORS, Needs, Statistics
from progdist.evaluate.metrics.kernel import kernel_distance
from progdist.evaluate.metrics.moments import frechet_distance
from progdist.evaluate.metrics.neighbours import precision_recall

Value = tuple[float, dict[str, Any]]
"""A value, and further details of it by name."""


class MetricSpec(NamedTuple):
    """One metric of samples against a reference.

    Attributes:
      name: one of `Metric`.
      titles: names of its values; see `Extractor.metric_name`.
      needs: statistics it needs besides the moments.
      minimum: minimum number of images it needs, both samples and reference.
      values: (samples, reference) -> the values, in the order of the titles.
    """

    name: Metric
    titles: tuple[str, ...]
    needs: Needs
    minimum: int
    values: Callable[[Statistics, Statistics], list[Value]]


def make_metric(name: Metric) -> MetricSpec:
    """Returns the named metric.

    Raises:
      ValueError: if `name` is not one of `Metric`.
    """
    match name:
        case "fd":
            return MetricSpec(name, ("FD",), Needs(), 2, _frechet)
        case "kid":
            return MetricSpec(name, ("KID",), Needs(MAX_VECTORS), 2, _kernel)
        case "is":
            needs = Needs(scores=True)
            return MetricSpec(name, ("IS",), needs, scores.SPLITS, _inception_score)
        case "pr":
            titles, minimum = ("precision", "recall"), neighbours.NEIGHBOURS + 1
            return MetricSpec(name, titles, Needs(MAX_VECTORS), minimum, _neighbours)
    raise ValueError(f"metric: {name!r} is not one of {get_args(Metric)}")


def combined_needs(specs: Collection[MetricSpec]) -> Needs:
    """Returns the combined needs of the metrics."""
    return Needs(
        max((spec.needs.num_vectors for spec in specs), default=0),
        any(spec.needs.scores for spec in specs),
    )


def _frechet(samples: Statistics, reference: Statistics) -> list[Value]:
    return [(frechet_distance(reference.moments, samples.moments), {})]


def _kernel(samples: Statistics, reference: Statistics) -> list[Value]:
    kid = kernel_distance(samples.vectors, reference.vectors)
    details = {"std": kid.std, "subsets": kid.subsets, "size": kid.size}
    return [(kid.mean, details | _counts(samples, reference))]


def _inception_score(samples: Statistics, reference: Statistics) -> list[Value]:
    mean, std = samples.score
    return [(mean, {"std": std, "splits": scores.SPLITS})]


def _neighbours(samples: Statistics, reference: Statistics) -> list[Value]:
    details = {"neighbours": neighbours.NEIGHBOURS, **_counts(samples, reference)}
    pair = precision_recall(samples.vectors, reference.vectors)
    return [(value, details) for value in pair]


def _counts(samples: Statistics, reference: Statistics) -> dict[str, int]:
    return {"kept": len(samples.vectors), "kept_reference": len(reference.vectors)}
