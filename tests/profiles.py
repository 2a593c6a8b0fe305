"""ICC profiles made by hand (ICC.1:2001-04), in which the colours can be computed."""

import struct

import numpy as np

# The primaries of sRGB, adapted to D50, and its white.
_PRIMARIES = {
    b"rXYZ": (0.43607, 0.22249, 0.01392),
    b"gXYZ": (0.38515, 0.71687, 0.09708),
    b"bXYZ": (0.14307, 0.06061, 0.71410),
}
_WHITE = (0.96420, 1.0, 0.82491)


def linear_profile(space: str) -> bytes:
    """A profile of "RGB " or "GRAY" with the primaries of sRGB, in linear light."""
    line = b"curv" + bytes(8)
    tags = {b"wtpt": _xyz(_WHITE)}
    if space == "RGB ":
        tags |= {name: _xyz(value) for name, value in _PRIMARIES.items()}
        tags |= dict.fromkeys([b"rTRC", b"gTRC", b"bTRC"], line)
    else:
        tags |= {b"kTRC": line}
    return _profile(space.encode(), b"mntr", b"XYZ ", tags)


def cyan_is_black() -> bytes:
    """A profile of four inks, of which cyan alone makes the white paper black."""
    ramp = np.arange(256, dtype=np.uint8).tobytes()
    light = np.repeat([255, 0], 8)  # cyan varies slowest
    lab = np.stack([light, np.full(16, 128), np.full(16, 128)], -1).astype(np.uint8)
    one = np.eye(3) * 2**16
    table = b"mft1" + bytes([0, 0, 0, 0, 4, 3, 2, 0]) + one.astype(">i4").tobytes()
    table += ramp * 4 + lab.tobytes() + ramp * 3
    return _profile(b"CMYK", b"prtr", b"Lab ", {b"A2B0": table, b"wtpt": _xyz(_WHITE)})


def _xyz(value: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 2**16) for v in value))


def _profile(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(content), len(value))
        content += value
    size = struct.pack(">I", start + len(content))
    header = size + bytes(4) + b"\x02\x40\0\0" + kind + space + pcs + bytes(12)
    header += b"acsp" + bytes(28) + _xyz(_WHITE)[8:]
    return header.ljust(128, b"\0") + table + content
