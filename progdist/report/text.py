"""Human-readable numbers, times and names."""

import math

NONE = "–"


def plain(text: str) -> str:
    """Returns untrusted text, escaped so that Matplotlib sees no formula."""
    return printable(text).replace("$", r"\$")


def printable(text: str) -> str:
    """Returns untrusted text in one line, with unprintable characters replaced."""
    return "".join(c if c.isprintable() else "�" for c in text)


def steps_text(num_steps: int) -> str:
    """Returns "1 step", or "64 steps"."""
    return f"{num_steps} step" if num_steps == 1 else f"{num_steps} steps"


def number_text(value: float | None) -> str:
    """Returns three significant digits, without an exponent for usual sizes."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def share_text(value: float | None) -> str:
    """Returns a share in per cent: "93 %", "4.2 %"."""
    if value is None:
        return NONE
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.1f} %"


def duration_text(seconds: float | None) -> str:
    """Returns a duration: "41 s", "9 min 40 s", "3 h 12 min", "2 d 5 h"."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def many_text(count: int | float | None) -> str:
    """Returns a number that may be large: "0.52", "960,000", "8.19 M"."""
    if count is None:
        return NONE
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"
