"""Every setting, read once from the environment and checked at start."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.backends.options import Backend, PrecisionSetting
from service.errors import SettingsError
from service.images.options import (
    COLOR,
    DECODE_MEMORY_MIB,
    DECODE_TIMEOUT_S,
    MAX_PIXELS,
    Color,
    Resize,
)
from service.settings.names import PREFIX, misspelt, variable, wrong
from service.tiers import TIERS, Tier

MEBIBYTE = 1024 * 1024
CommaSeparated = Annotated[tuple[str, ...], NoDecode]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]

THEMES = {
    "models": "Models, address",
    "device": "Device and threads",
    "default_tier": "Tiers and batches",
    "max_queue_images": "Limits",
    "probe_interval_s": "Accuracy while serving",
    "drain_delay_s": "End of the process, logs, cache",
}
"""the first setting of each group, and what the group is about"""


class _WhatComputes(BaseSettings):
    """Models, address, device and threads."""

    models: CommaSeparated = Field(
        ("everyday-vit-s14",),
        min_length=1,
        description="models to serve, separated by commas; the first is the default. Each a "
        "bundled model, a folder in timm's format, or a timm name (downloaded); `name=` in front "
        "gives it another name",
    )
    host: str = Field("127.0.0.1", description="address to listen on; `0.0.0.0` for all")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 for any free one")
    cors_origins: CommaSeparated = Field(
        (),
        description="origins whose pages may call the service from a browser, separated by commas, "
        "for example `https://example.com,http://localhost:3000`; `*`: all; empty: none",
    )
    device: Device = Field("auto", description="`auto`, `cpu`, `cuda`, `cuda:1`")
    backend: Backend = Field(
        "auto",
        description="`torch`: PyTorch by itself; `onednn`: on the CPU, weights laid out once; "
        "`openvino`: the same, and full batches of the warmed-up tiers by OpenVINO; `auto`: what "
        "is fastest with one copy of the weights, on a GPU with fused kernels where Triton works",
    )
    precision: PrecisionSetting = Field(
        "auto",
        description="`auto`: what this machine has is tried when a model is first loaded, and the "
        "fastest is taken that answers as `float32` does (`GET /v1/models/NAME` says what was "
        "found); `float32`: equal answers on all machines; `bfloat16`; on a GPU `float16`; on the "
        "CPU with oneDNN `int8`",
    )
    num_threads: int = Field(
        0,
        ge=0,
        description="threads that compute on the CPU; 0: one per core that the process may use",
    )
    num_streams: int = Field(
        0,
        ge=0,
        le=256,
        description="batches that the CPU computes at the same time, sharing those threads; 0: one "
        "per thread, at most 4; on a GPU one",
    )
    graph_memory_mib: int = Field(
        2048,
        ge=0,
        description="MiB of memory for graphs of the warmed-up tiers: on a GPU CUDA graphs, the "
        "launches of a batch recorded once, with the backend `openvino` its own; when they take "
        "more, no further ones are made; 0: none",
    )
    decode_threads: int = Field(
        0,
        ge=0,
        description="images decoded at a time, each in a process of its own; 0: one per core that "
        "the service may use",
    )
    resize: Resize = Field(
        "pillow",
        description="`pillow`: pictures are resized as timm does it, bit for bit; `torch`: several "
        "times faster, and some values of a picture differ by 1 or 2 of 255",
    )
    color: Color = Field(
        COLOR,
        description="`srgb`: a picture with a colour profile is converted to sRGB, as viewers do; "
        "`ignore`: profiles are ignored, as timm does, bit for bit",
    )


class _WhatIsAccepted(_WhatComputes):
    """Tiers, batches and limits."""

    default_tier: Tier = Field(
        "balanced", description="tier of a request that names neither `tier` nor `r`"
    )
    warmup_tiers: Annotated[tuple[Tier, ...], NoDecode] = Field(
        TIERS, description="tiers to run once before the service is ready, separated by commas"
    )
    max_batch_size: int = Field(8, ge=1, le=1024, description="most images in one batch")
    max_wait_ms: float = Field(
        0,
        ge=0,
        le=10_000,
        description="how long an image waits for company while the device is free",
    )
    brownout: Literal["on", "off"] = Field(
        "off",
        description="`on`: under pressure, requests that name a `min_tier` run a faster tier, "
        "before any is refused",
    )
    max_queue_images: int = Field(
        128, ge=1, description="most images inside (decoding, waiting, computing); more are refused"
    )
    max_queue_bytes: int = Field(
        256 * MEBIBYTE,
        ge=1,
        description="most bytes of request bodies that have arrived; more are refused",
    )
    max_body_bytes: int = Field(32 * MEBIBYTE, ge=1, description="most bytes of one request body")
    max_pixels: int = Field(
        MAX_PIXELS, ge=1, description="most pixels of one image, before and after resizing"
    )
    decode_timeout_s: float = Field(
        DECODE_TIMEOUT_S,
        gt=0,
        le=3600,
        description="an image whose decoding takes longer is refused with 400",
    )
    decode_memory_mib: int = Field(
        DECODE_MEMORY_MIB,
        ge=64,
        description="most MiB that all images being decoded may take together, by their headers; "
        "less where the container has less",
    )
    max_images_per_request: int = Field(16, ge=1, description="most images in one request")
    deadline_ms: float = Field(
        30_000, gt=0, le=3_600_000, description="a request not answered by then gets 504"
    )
    receive_timeout_s: float = Field(
        20, gt=0, le=3600, description="a request that has not arrived whole by then gets 408"
    )
    send_timeout_s: float = Field(
        20,
        gt=0,
        le=3600,
        description="a client that takes less than 1 KiB/s of its answers over this time loses its "
        "connection",
    )
    max_connections: int = Field(
        1000,
        ge=1,
        description="most open connections; for another one, the connection that has been idle for "
        "longest is closed",
    )
    api_keys_file: str = Field(
        "",
        description="file with `NAME KEY` in each line: only requests with one of the keys are "
        "answered; empty: all are",
    )
    max_requests_per_key: int = Field(
        0, ge=0, description="most requests of one key at a time; 0: any number"
    )
    max_images_per_key: int = Field(
        0,
        ge=0,
        description="most images of one key inside at a time; 0: any number. One request alone may "
        "have more",
    )
    batch_timeout_s: float = Field(
        60,
        gt=0,
        le=86_400,
        description="a batch that runs longer is stuck: the process ends with status 1",
    )


class Settings(_WhatIsAccepted):
    """The settings; each is the environment variable `RAPID_` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    probe_interval_s: float = Field(
        3600,
        ge=0,
        le=31_536_000,
        description="from one probe of every tier on labelled pictures to the next, the first at "
        "start; 0: never",
    )
    probe_data: CommaSeparated = Field(
        (),
        description="`name=folder` of labelled pictures for models, separated by commas; without "
        "one, the folder `probe` in the model's own folder, if there is one",
    )
    probe_max_images: int = Field(
        500, ge=1, description="most pictures of one probe; of more, evenly spaced ones"
    )
    shadow_fraction: float = Field(
        0, ge=0, le=1, description="share of the answers to compare with the unreduced model's"
    )
    spare_share: float = Field(
        0.02,
        gt=0,
        le=1,
        description="most of the device's time for probes and comparisons while there is traffic",
    )
    drain_delay_s: float = Field(
        5,
        ge=0,
        le=3600,
        description="after SIGTERM, how long requests are still served while `/readyz` already "
        "says 503",
    )
    drain_timeout_s: int = Field(
        30, ge=0, description="longest time to finish accepted work after SIGTERM"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="`debug`, `info`, `warning` or `error`"
    )

    cache_dir: str = Field(
        "",
        description="folder for what a start measured and the next one need not measure again; "
        "empty: `rapid-vit` in the user's folder of caches (`XDG_CACHE_HOME`, or `.cache` at "
        "home); `off`: none. Where it cannot be written, there is none",
    )

    @field_validator("models", "cors_origins", "warmup_tiers", "probe_data", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("max_requests_per_key", "max_images_per_key")
    @classmethod
    def _needs_keys(cls, value: int, info: ValidationInfo) -> int:
        if value and not info.data.get("api_keys_file"):
            raise ValueError(f"it has no effect without {PREFIX}API_KEYS_FILE")
        return value

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read and check all settings.

        Raises:
            SettingsError: a `RAPID_` variable is unknown (pydantic-settings would ignore it), or
                a value is not allowed.
        """
        return cls.read({}, environment)

    @classmethod
    def read(
        cls, flags: Mapping[str, str], environment: Mapping[str, str] | None = None
    ) -> "Settings":
        """Read and check all settings. A flag beats the variable of the same setting.

        Args:
            flags: the text that the command line gives to a setting, by the setting's name.
            environment: the variables whose names are checked; None: those of the process.

        Raises:
            SettingsError: as `from_environment`; the message names the flag or the variable.
        """
        environment = os.environ if environment is None else environment
        _refuse_several_workers(environment)
        variables = [variable(name) for name in cls.model_fields]
        for name in environment:
            if name.upper().startswith(PREFIX) and name.upper() not in variables:
                raise SettingsError(misspelt(name, "a setting", variables))
        values: dict[str, Any] = dict(flags)
        try:
            return cls(**values)
        except ValidationError as exc:
            raise SettingsError("; ".join(wrong(error, flags) for error in exc.errors())) from exc


def _refuse_several_workers(environment: Mapping[str, str]) -> None:
    """Several processes behind one port would each answer /metrics with their own share.

    Raises:
        SettingsError: WEB_CONCURRENCY, by which servers take their number, asks for several.
    """
    wanted = environment.get("WEB_CONCURRENCY", "1")
    if wanted.strip() not in ("", "0", "1"):
        raise SettingsError(
            f"WEB_CONCURRENCY={wanted} asks for several workers behind one port; each would load "
            "the model again, compete for the device, and answer every scrape of /metrics with its "
            "own share of the counts. Run one process per device, each on its own port and scraped "
            "by itself, and unset WEB_CONCURRENCY"
        )
