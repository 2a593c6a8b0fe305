"""Features of images, from which the metrics are computed."""

from progdist.checkpoint.weights import WeightsError as WeightsError
from progdist.evaluate.features.layers import Features as Features
from progdist.evaluate.features.networks import (
    Network as Network,
    open_network as open_network,
)
from progdist.evaluate.features.pixels import (
    pixel_features as pixel_features,
    pixels_label as pixels_label,
)
