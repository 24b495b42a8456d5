"""ICC profiles out of the few numbers that some files have instead of a profile.

Source: ICC.1:2022 (v4.4), tables 17 and 66 to 68, annex E; ITU-T H.273, tables 2 and 3
"""

import struct
from typing import NamedTuple

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]
"""three rows"""

D50: Vector = (0.9642, 1.0, 0.8249)
"""the white of ICC profiles, as XYZ"""
BRADFORD: Matrix = (
    (0.8951, 0.2664, -0.1614),
    (-0.7502, 1.7135, 0.0367),
    (0.0389, -0.0685, 1.0296),
)
"""XYZ -> responses of the eye's cones, in which whites are adapted"""
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""g, a, b, c, d: (a x + b) ** g from d on, c x below"""


class Primaries(NamedTuple):
    """CIE xy of the white and of the three colours that pictures are made of."""

    white: tuple[float, float]
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


D65 = (0.3127, 0.3290)
BT_709 = Primaries(D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
BT_2020 = Primaries(D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
DISPLAY_P3 = Primaries(D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))


def matrix_profile(primaries: Primaries, gamma: float | None = None) -> bytes:
    """An ICC profile of three primaries and one curve.

    Args:
        primaries: the colours, and the white that all three make.
        gamma: the exponent, above 0; None for the curve of sRGB.

    Raises:
        ValueError: the primaries lie on one line, one of their y is 0, or a number is too large.
    """
    curve = _curve((gamma,) if gamma else SRGB_CURVE)
    tags = {b"wtpt": _xyz(D50)}
    tags |= zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, colorants(primaries)), strict=True)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(data), len(value))
        data += value
    return _header(start + len(data)) + table + data


def colorants(primaries: Primaries) -> Matrix:
    """XYZ of red, green and blue at their full, adapted to the white D50 by Bradford's method.

    Raises:
        ValueError: the primaries lie on one line, or one of their y is 0.
    """
    try:
        white, red, green, blue = map(_xyz_of, primaries)
        shares = _solve(_transposed((red, green, blue)), white)
        changes = _divided(_times(BRADFORD, D50), _times(BRADFORD, white))
    except ZeroDivisionError as exc:
        raise ValueError("these primaries make no colours") from exc

    def adapted(color: Vector, share: float) -> Vector:
        x, y, z = _times(BRADFORD, color)
        cones = (x * changes[0] * share, y * changes[1] * share, z * changes[2] * share)
        return _solve(BRADFORD, cones)

    return adapted(red, shares[0]), adapted(green, shares[1]), adapted(blue, shares[2])


def _xyz_of(xy: tuple[float, float]) -> Vector:
    x, y = xy
    return x / y, 1.0, (1 - x - y) / y


def _times(matrix: Matrix, vector: Vector) -> Vector:
    x, y, z = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return x, y, z


def _divided(one: Vector, other: Vector) -> Vector:
    return one[0] / other[0], one[1] / other[1], one[2] / other[2]


def _transposed(matrix: Matrix) -> Matrix:
    first, second, third = zip(*matrix, strict=True)
    return first, second, third


def _solve(matrix: Matrix, wanted: Vector) -> Vector:
    """The vector that the matrix turns into the wanted one, by Cramer's rule."""
    whole = _determinant(matrix)
    first, second, third = _transposed(matrix)
    return (
        _determinant((wanted, second, third)) / whole,
        _determinant((first, wanted, third)) / whole,
        _determinant((first, second, wanted)) / whole,
    )


def _determinant(matrix: Matrix) -> float:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _header(size: int) -> bytes:
    return struct.pack(
        ">I4xI4s4s4s6H4s28x3i48x",
        *(size, 0x04400000, b"mntr", b"RGB ", b"XYZ ", 2026, 1, 1, 0, 0, 0, b"acsp"),
        *map(_fixed, D50),
    )


def _xyz(color: Vector) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *map(_fixed, color))


def _curve(parameters: tuple[float, ...]) -> bytes:
    """A parametric curve: one parameter is an exponent, five are those of `SRGB_CURVE`."""
    kind = 0 if len(parameters) == 1 else 3
    return struct.pack(f">4s4xH2x{len(parameters)}i", b"para", kind, *map(_fixed, parameters))


def _fixed(value: float) -> int:
    """The number as s15Fixed16Number."""
    if not abs(value) < 32768:
        raise ValueError("a number is too large for a profile")
    return round(value * 65536)
