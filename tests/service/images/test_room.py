"""The memory for pictures is what the container has left, in both versions of control groups."""

from pathlib import Path

import psutil
import pytest

from service.images.processes import room
from service.images.processes.memory import MEBIBYTE

TOTAL = psutil.virtual_memory().total


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": f"{512 * MEBIBYTE}\n"}, 512 * MEBIBYTE),
        ("0::/\n", {"memory.max": "max\n"}, TOTAL),
        ("0::/a/b\n", {"a/memory.max": "300\n", "a/b/memory.max": "max\n"}, 300),
        ("0::/a/b\n", {"a/memory.max": "300\n", "a/b/memory.max": "200\n"}, 200),
        ("0::/not/seen/here\n", {"memory.max": "400\n"}, 400),
        ("5:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "100\n"}, 100),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, TOTAL),
        ("3:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "100\n"}, TOTAL),
        ("", {}, TOTAL),
    ],
)
def test_the_smallest_limit_around_the_process_counts(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    write(tmp_path / "groups", groups)
    for name, text in files.items():
        write(tmp_path / name, text)
    assert room.container_bytes(tmp_path / "groups", tmp_path) == expected


def test_without_control_groups_it_is_the_machines_memory(tmp_path: Path) -> None:
    assert room.container_bytes(tmp_path / "none", tmp_path) == TOTAL


def test_what_others_take_is_left_to_them_and_a_little_is_always_there() -> None:
    assert room.for_pictures(0) - room.for_pictures(100 * MEBIBYTE) == pytest.approx(
        100 * MEBIBYTE, abs=50 * MEBIBYTE
    )
    assert room.for_pictures(2 * TOTAL) == room.SMALLEST_ROOM
