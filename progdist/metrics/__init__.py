"""Distances between sets of images, from features of them; in float64, on the host."""

from progdist.metrics.collector import (
    KEPT as KEPT,
    Collector as Collector,
    Statistics as Statistics,
    merge as merge,
)
from progdist.metrics.kernel import kernel_distance as kernel_distance
from progdist.metrics.measure import (
    Metric as Metric,
    measure as measure,
    names as names,
)
from progdist.metrics.moments import (
    Moments as Moments,
    Running as Running,
    frechet_distance as frechet_distance,
)
from progdist.metrics.neighbours import precision_recall as precision_recall
from progdist.metrics.pixels import (
    metric_name as metric_name,
    pixel_features as pixel_features,
    pixel_moments as pixel_moments,
    pixels_name as pixels_name,
    source_moments as source_moments,
)
from progdist.metrics.scores import SPLITS as SPLITS, RunningScores as RunningScores
