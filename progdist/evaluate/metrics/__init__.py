"""Distances between sets of images, from features of them; in float64, on the host."""

from progdist.evaluate.metrics.collector import (
    ALL as ALL,
    KEPT as KEPT,
    Collector as Collector,
    Needs as Needs,
    Statistics as Statistics,
    merge as merge,
)
from progdist.evaluate.metrics.kernel import kernel_distance as kernel_distance
from progdist.evaluate.metrics.measure import (
    Metric as Metric,
    least as least,
    measure as measure,
    names as names,
    needs as needs,
)
from progdist.evaluate.metrics.moments import (
    Moments as Moments,
    Running as Running,
    frechet_distance as frechet_distance,
)
from progdist.evaluate.metrics.neighbours import precision_recall as precision_recall
from progdist.evaluate.metrics.pixels import (
    pixel_features as pixel_features,
    pixels_name as pixels_name,
)
from progdist.evaluate.metrics.scores import RunningScores as RunningScores
