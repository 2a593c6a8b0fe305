"""Figures as inline SVG, in the colours of the page."""

import html
import io
import re

import matplotlib
from matplotlib.figure import Figure

from progdist.report.figures.style import (
    ANCESTRAL,
    FAINT,
    GREY,
    INK,
    OTHERS,
    PAPER,
    STUDENT,
    TEACHER,
)

# The page defines these variables for light and dark mode.
VARIABLES = {
    STUDENT: "student",
    TEACHER: "teacher",
    ANCESTRAL: "ancestral",
    INK: "ink",
    GREY: "grey",
    FAINT: "faint",
    PAPER: "paper",
    **{colour: f"other-{index}" for index, colour in enumerate(OTHERS)},
}


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """Returns the figure as an <svg> element that scales to its container.

    Args:
      figure: of `make_figure`.
      name: prefix of every id, made of letters and digits; unique on the page.
      alt: description for screen readers.
    """
    buffer = io.StringIO()
    # Text stays text: small, sharp, and in the font of the page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    box = re.search(r'viewBox="([^"]*)"', svg)
    content = svg[svg.index("</defs>") + len("</defs>") : svg.rindex("</svg>")]
    content = re.sub(r"font-family: [^;\"]*;? ?", "", content)
    content = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", content)
    content = re.sub(r'style="[^"]*"', _with_variables, content)
    content = re.sub(r"\s*\n\s*", " ", content)
    return (
        f'<svg class="chart" role="img" aria-label="{html.escape(alt)}" '
        f'viewBox="{box[1] if box else ""}">{content}</svg>'
    )


def _with_variables(style: re.Match[str]) -> str:
    return re.sub(r"#[0-9a-f]{6}\b", lambda colour: _variable(colour[0]), style[0])


def _variable(colour: str) -> str:
    return f"var(--{VARIABLES[colour]})" if colour in VARIABLES else colour
