"""Images by name, in an order that is a pure function of (seed, step)."""

from progdist.data.batches import batch_at as batch_at
from progdist.data.batches import batches as batches
from progdist.data.batches import from_uint8 as from_uint8
from progdist.data.batches import to_uint8 as to_uint8
from progdist.data.source import ArraySource as ArraySource
from progdist.data.source import Batch as Batch
from progdist.data.source import DataError as DataError
from progdist.data.source import Source as Source
from progdist.data.sources import Name as Name
from progdist.data.sources import open_source as open_source
