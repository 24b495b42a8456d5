"""Checks that a service is ready and can answer all requests of a mix."""

import json

import aiohttp
from yarl import URL

from service.load.mix import Entry
from service.load.outcomes import explain


class UnfitServiceError(Exception):
    """There is no service, it is not ready, or it cannot answer this mix."""


async def check_service(session: aiohttp.ClientSession, url: URL, mix: list[Entry]) -> str:
    """The name of the model that will answer.

    Raises:
        UnfitServiceError: nobody answers, the service is not ready, or `r` is beyond its model.
    """
    try:
        async with session.get(url / "readyz", allow_redirects=False) as response:
            if response.status != 200:
                said = explain(await response.read())
                raise UnfitServiceError(f"{url} is not ready: {response.status} {said}")
        async with session.get(url / "v1/models", allow_redirects=False) as response:
            model = json.loads(await response.read())["models"][0]
            name, max_r = str(model["name"]), int(model["max_r"])
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise UnfitServiceError(
            f"nobody answers at {url} ({exc}); `rapid serve` starts a service"
        ) from exc
    except (LookupError, TypeError, ValueError) as exc:
        raise UnfitServiceError(f"{url}/v1/models does not answer as this service does") from exc
    for entry in mix:
        if int(entry.query.get("r", 0)) > max_r:
            raise UnfitServiceError(f"{entry.name}: r of {name} is at most {max_r}")
    return name
