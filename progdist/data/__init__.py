"""Images by name, in an order that is a pure function of (seed, step)."""

from progdist.data.batches import (
    batch_at as batch_at,
    batches as batches,
    from_uint8 as from_uint8,
    spread_indices as spread_indices,
    to_uint8 as to_uint8,
)
from progdist.data.source import (
    ArraySource as ArraySource,
    Batch as Batch,
    DataError as DataError,
    Source as Source,
    empty_classes as empty_classes,
)
from progdist.data.sources import open_source as open_source
