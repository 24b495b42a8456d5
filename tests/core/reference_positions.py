"""The reference of resampling: bicubic with antialiasing, in plain floats and loops.

Source: Keys 1981 (the cubic kernel, here with a = -1/2); where the image shrinks, the kernel is
widened by the same factor, so that every old pixel counts. At the edges the kernel is cut off, and
what is left of it is scaled to the sum one.
"""

import math

Channel = list[list[float]]  # [row][column]


def cubic(x: float) -> float:
    """Keys' kernel; zero from 2 on."""
    x, a = abs(x), -0.5
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def weights(old: int, new: int, position: int) -> list[float]:
    """What each of the old samples counts at one new position; they sum to one."""
    scale = old / new
    widened = max(scale, 1.0)
    centre = (position + 0.5) * scale
    first = max(0, math.floor(centre - 2 * widened + 0.5))
    last = min(old, math.floor(centre + 2 * widened + 0.5))
    counts = [
        cubic((sample + 0.5 - centre) / widened) if first <= sample < last else 0.0
        for sample in range(old)
    ]
    return [count / sum(counts) for count in counts]


def resampled(channel: Channel, rows: int, columns: int) -> Channel:
    """One channel of an image, with another number of rows and columns."""
    down = [weights(len(channel), rows, row) for row in range(rows)]
    across = [weights(len(channel[0]), columns, column) for column in range(columns)]
    return [
        [
            sum(
                by_row * by_column * channel[i][j]
                for i, by_row in enumerate(line)
                for j, by_column in enumerate(counts)
            )
            for counts in across
        ]
        for line in down
    ]
