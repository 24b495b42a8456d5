"""Owners take turns; within one, first come is first served; nobody's place is lost."""

import asyncio
import math

import pytest

from service.images.turns import Turns

pytestmark = pytest.mark.anyio


async def ready(waiting: list[str], turns: Turns, name: str, owner: str | None) -> None:
    await turns.take(owner)
    waiting.append(name)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def order(turns: Turns, *entries: tuple[str, str | None]) -> list[str]:
    """The order in which they get the only place, one after the other."""
    served: list[str] = []
    await turns.take(None)
    tasks = [asyncio.create_task(ready(served, turns, *entry)) for entry in entries]
    await settle()
    for _ in entries:
        turns.leave()
        await settle()
    await asyncio.gather(*tasks)
    turns.leave()
    return served


async def test_one_owner_goes_as_it_came() -> None:
    entries = [(f"a{n}", None) for n in range(5)]
    assert await order(Turns(1), *entries) == [name for name, _ in entries]


async def test_owners_go_in_turn_whatever_one_of_them_has_waiting() -> None:
    many = [(f"a{n}", "a") for n in range(6)]
    found = await order(Turns(1), *many, ("b0", "b"), ("b1", "b"), ("c0", "c"))
    assert found == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4", "a5"]


async def test_who_is_late_already_lets_those_go_first_who_can_be_in_time() -> None:
    now, served = [0.0], list[str]()
    turns = Turns(1, clock=lambda: now[0])
    await turns.take(None)

    async def wait(name: str, budget_ends: float) -> None:
        await turns.take(None, budget_ends)
        served.append(name)

    tasks = [
        asyncio.create_task(wait(*entry))
        for entry in (("late", 1.0), ("later", 2.0), ("in time", 9.0), ("any time", math.inf))
    ]
    await settle()
    now[0] = 5.0
    for _ in tasks:
        turns.leave()
        await settle()
    assert served == ["in time", "any time", "late", "later"]


async def test_who_leaves_loses_no_place_of_others() -> None:
    turns, served = Turns(1), list[str]()
    await turns.take(None)
    leaving, chosen, staying = (
        asyncio.create_task(ready(served, turns, name, name)) for name in ("a", "b", "c")
    )
    await settle()
    leaving.cancel()  # while it waits
    await settle()
    turns.leave()
    chosen.cancel()  # when it was its turn, before it could run
    await settle()
    await staying
    assert served == ["c"]
    turns.leave()
    await asyncio.wait_for(turns.take(None), 60)
