"""Metrics between sets of images, from their features; in float64, on the host."""

from progdist.evaluate.metrics.collector import (
    ALL as ALL,
    MAX_VECTORS as MAX_VECTORS,
    Collector as Collector,
    Needs as Needs,
    Statistics as Statistics,
    merge as merge,
)
from progdist.evaluate.metrics.kernel import kernel_distance as kernel_distance
from progdist.evaluate.metrics.moments import (
    Moments as Moments,
    Running as Running,
    ThinMoments as ThinMoments,
    frechet_distance as frechet_distance,
)
from progdist.evaluate.metrics.neighbours import precision_recall as precision_recall
from progdist.evaluate.metrics.scores import RunningScores as RunningScores
from progdist.evaluate.metrics.spec import (
    Metric as Metric,
    MetricSpec as MetricSpec,
    Value as Value,
    combined_needs as combined_needs,
    make_metric as make_metric,
)
