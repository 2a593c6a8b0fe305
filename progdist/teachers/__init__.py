"""Formats that come in: models of other libraries as teachers.

Every reader turns a file or folder into a `Teacher`: a card, as of a model directory,
and the parameters of the network that it describes. Nothing in a file is executed.
"""

from progdist.teachers.source import convert as convert, read_teacher as read_teacher
from progdist.teachers.types import Options as Options, Teacher as Teacher
