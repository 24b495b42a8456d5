"""The walk of one request: counted by hand on a small one, and held below a limit on a real one."""

from pathlib import Path

import pytest

from benchmarks import walk
from benchmarks.walk import Event

MOST_MOVES_BETWEEN_ROOMS = 40
"""on the event loop; may only become smaller"""

LOOP, THREAD = 1, 2


def call(file: str, thread: int = LOOP) -> Event:
    return Event(thread, True, file)


def back(file: str, thread: int = LOOP) -> Event:
    return Event(thread, False, file)


def test_a_walk_by_hand() -> None:
    events = [
        back("service/api/app.py"),  # called before the recording
        call("service/api/v1/routes.py"),
        call("service/api/v1/routes.py"),  # the same file: no entry
        call("service/tiers.py"),
        call("rapid_core/kernels.py", THREAD),
        call("service/errors.py"),  # another file, the same room
        back("service/errors.py"),
        back("service/tiers.py"),
        call("service/pipeline/choice.py"),
        back("service/pipeline/choice.py"),
        call("service/tiers.py"),
        back("service/tiers.py"),
        back("service/api/v1/routes.py"),
        back("service/api/v1/routes.py"),
        call("service/api/exchange.py"),
        back("service/api/exchange.py"),
    ]
    found = walk.summarize(events, LOOP)
    assert found.num_calls == 8
    assert len(found.files) == 6
    assert found.num_moves == 5  # routes, tiers, errors, choice, tiers, exchange
    assert len(found.loop_files) == 5
    assert found.num_loop_entries == 6
    assert found.room_moves == {
        ("outside", "api"): 2,
        ("api", "service"): 2,
        ("api", "pipeline"): 1,
    }
    assert found.num_moves_between_rooms == 5
    assert not found.entered_app


@pytest.mark.parametrize("file", ["service/app.py", "service/api/app.py"])
def test_a_walk_through_the_file_that_builds_the_application_is_said(file: str) -> None:
    found = walk.summarize([call(file), back(file)], LOOP)
    assert found.entered_app
    assert "application was entered" in walk.describe(found)


@pytest.mark.slow
def test_a_request_moves_little_between_rooms(tiny_model: Path) -> None:
    found = walk.trace(str(tiny_model))
    assert {"service/pipeline/classify.py", "service/images/pool.py"} <= set(found.files)
    assert any(file.startswith("rapid_core/") for file in found.files)
    assert not any(file.startswith("rapid_core/") for file in found.loop_files)
    assert 0 < found.num_moves_between_rooms <= MOST_MOVES_BETWEEN_ROOMS, walk.describe(found)
