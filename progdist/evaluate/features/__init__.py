"""Networks whose features of images stand behind the distances."""

from progdist.evaluate.features.networks import (
    Features as Features,
    Name as Name,
    Network as Network,
    open_network as open_network,
)
from progdist.evaluate.features.weights import WeightsError as WeightsError
