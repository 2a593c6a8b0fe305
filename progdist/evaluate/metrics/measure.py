"""The distances by name, each with what has to be known beside its value."""

from collections.abc import Collection
from typing import Any, Literal, get_args

from progdist.evaluate.metrics import neighbours, scores
from progdist.evaluate.metrics.collector import KEPT, Needs, Statistics
from progdist.evaluate.metrics.kernel import kernel_distance
from progdist.evaluate.metrics.moments import frechet_distance
from progdist.evaluate.metrics.neighbours import precision_recall

Metric = Literal["fd", "kid", "is", "pr"]
_SUFFIXES = {"inception": "", "inception_tf1": "-tf1"}


def measure(
    metric: Metric, features: str, samples: Statistics, reference: Statistics
) -> dict[str, dict[str, Any]]:
    """Returns value and details by the name of each number.

    FID is the Fréchet distance between the FID Inception's features alone; between any
    others it is called FD, and all names end in those of the features.

    Raises:
      ValueError: if `metric` is not one of `Metric`, or there are too few images.
    """
    kept = {"kept": len(samples.kept), "kept_reference": len(reference.kept)}
    match metric:
        case "fd":
            value = frechet_distance(reference.moments, samples.moments)
            found = {"FD": {"value": value}}
        case "kid":
            kid = kernel_distance(samples.kept, reference.kept)
            details = {"std": kid.std, "subsets": kid.subsets, "size": kid.size}
            found = {"KID": {"value": kid.mean, **details, **kept}}
        case "is":
            mean, std = samples.score
            found = {"IS": {"value": mean, "std": std, "splits": scores.SPLITS}}
        case "pr":
            pair = precision_recall(samples.kept, reference.kept)
            details = {"neighbours": neighbours.NEIGHBOURS, **kept}
            found = {
                name: {"value": value, **details}
                for name, value in pair._asdict().items()
            }
        case _:
            raise ValueError(f"metric: {metric!r} is not one of {get_args(Metric)}")
    return {number_name(name, features): details for name, details in found.items()}


def needs(wanted: Collection[Metric]) -> Needs:
    """Returns what the metrics need of samples."""
    pairs = {"kid", "pr"} & set(wanted)
    return Needs(KEPT if pairs else 0, "is" in wanted)


def least(metric: Metric) -> int:
    """Returns the fewest images, on either side, of which the metric can be taken."""
    return {"is": scores.SPLITS, "pr": neighbours.NEIGHBOURS + 1}.get(metric, 2)


def names(metric: Metric, features: str) -> tuple[str, ...]:
    """Returns the names of the numbers that `measure` returns."""
    bases = {"fd": ("FD",), "kid": ("KID",), "is": ("IS",)}
    return tuple(
        number_name(base, features)
        for base in bases.get(metric, ("precision", "recall"))
    )


def number_name(base: str, features: str) -> str:
    """Returns "FID" for FD of the Inception's features, "FD-pixels" of pixels."""
    if features in _SUFFIXES and base == "FD":
        base = "FID"
    return base + _SUFFIXES.get(features, f"-{features}")
