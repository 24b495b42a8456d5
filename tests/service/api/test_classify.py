"""POST /v1/classify as design and README promise it, from one image to 64 clients at once."""

import asyncio
import base64
import io
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from timm.models import VisionTransformer
from torch import nn

import rapid_core
from service.models.timm_models import create_transform, timm
from tests.conftest import BUNDLED, AppClient, Server
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

URL = "/v1/classify"
JPEG = {"content-type": "image/jpeg"}
MEMBERS = {
    *("model", "method", "tier", "r", "schedule", "tokens", "predictions", "macs_ratio"),
    *("timing_ms", "batch_size", "request_id", "choice"),
}
Json = dict[str, Any]


def close(predictions: list[Json], wanted: list[Json]) -> bool:
    """The same labels in the same order, probabilities within 1e-4."""
    return [item["index"] for item in predictions] == [item["index"] for item in wanted] and all(
        mine["probability"] == pytest.approx(theirs["probability"], abs=1e-4)
        for mine, theirs in zip(predictions, wanted, strict=True)
    )


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    """The sum of the samples of that name that have these labels."""
    text = (await client.get("/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@pytest.fixture(scope="module")
def small_pngs(examples: list[Path]) -> list[bytes]:
    """The example photos in 80 x 60, without loss."""
    files = [io.BytesIO() for _ in examples]
    for path, file in zip(examples, files, strict=True):
        with Image.open(path) as image:
            image.resize((80, 60)).save(file, "PNG")
    return [file.getvalue() for file in files]


@pytest.fixture
async def bundled(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client:
        yield client


@pytest.mark.e2e
async def test_an_answer_member_by_member(bundled: httpx.AsyncClient, owl: bytes) -> None:
    params = {"r": 14, "top_k": 3, "method": "tome", "model": "everyday-vit-s14"}
    response = await bundled.post(URL, content=owl, headers=JPEG, params=params)
    answer = response.json()
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert set(answer) == MEMBERS
    assert answer["model"] == "everyday-vit-s14"
    assert (answer["method"], answer["tier"], answer["r"]) == ("tome", None, 14)
    assert answer["choice"]["reason"] == "requested"
    assert answer["choice"]["expected_ms"] > 0
    assert answer["schedule"] == [14] * 12
    assert answer["tokens"] == {"input": 257, "output": 257 - 12 * 14}
    assert answer["macs_ratio"] == pytest.approx(0.6303, abs=1e-3)
    assert set(answer["timing_ms"]) == {"decode", "queue", "inference", "total"}
    parts = [answer["timing_ms"][part] for part in ("decode", "queue", "inference")]
    assert min(parts) >= 0
    assert sum(parts) <= answer["timing_ms"]["total"] + 0.01  # each is rounded
    assert answer["batch_size"] == 1
    assert answer["request_id"] == response.headers["x-request-id"]

    labels = json.loads((BUNDLED / "config.json").read_text())["label_names"]
    predictions = answer["predictions"]
    assert [set(item) for item in predictions] == [{"label", "index", "probability"}] * 3
    assert [item["label"] for item in predictions] == [
        labels[item["index"]] for item in predictions
    ]
    probabilities = [item["probability"] for item in predictions]
    assert predictions[0]["label"] == "owl"
    assert 1 >= probabilities[0] > 0.5
    assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.e2e
@pytest.mark.parametrize("r", [0, 8, 14, 20])
async def test_an_answer_says_what_its_r_did(
    bundled: httpx.AsyncClient, owl: bytes, r: int
) -> None:
    schedule, num_patches = [], 256
    for _ in range(12):
        schedule.append(min(r, num_patches // 2))
        num_patches -= schedule[-1]
    response = await bundled.post(URL, content=owl, headers=JPEG, params={"r": r})
    answer = response.json()
    assert (answer["r"], answer["tier"], answer["schedule"]) == (r, None, schedule)
    assert answer["tokens"] == {"input": 257, "output": 1 + num_patches}
    assert answer["predictions"][0]["label"] == "owl"


@pytest.mark.parametrize(
    ("method", "r"), [("rapid", 0), ("rapid", 3), ("rapid", 8), ("tome", 0), ("tome", 3)]
)
async def test_the_probabilities_are_those_of_the_model(
    app_client: AppClient, tiny_model: Path, small_pngs: list[bytes], method: str, r: int
) -> None:
    model = timm.create_model(f"local-dir:{tiny_model}", pretrained=True).eval()
    transform = create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    if r:
        model = rapid_core.patch(model, r=r, method=method)
    params: Json = {"method": method, "r": r, "top_k": 10}
    async with app_client() as client:
        for png in small_pngs[:4]:
            predictions = (await client.post(URL, content=png, params=params)).json()["predictions"]
            with torch.inference_mode(), Image.open(io.BytesIO(png)) as image:
                best = model(transform(image)[None])[0].softmax(dim=0).sort(descending=True)
            assert [item["index"] for item in predictions] == best.indices.tolist()
            assert [item["label"] for item in predictions] == [f"thing {i}" for i in best.indices]
            probabilities = [item["probability"] for item in predictions]
            assert probabilities == pytest.approx(best.values.tolist(), abs=1e-6)
            assert sum(probabilities) == pytest.approx(1)


async def test_every_form_of_a_request_gets_the_same_answer(
    app_client: AppClient, owl: bytes
) -> None:
    text = base64.b64encode(owl).decode()
    chosen = {"r": 3, "top_k": 4, "method": "tome", "model": "tiny", "deadline_ms": 20_000}
    forms: dict[str, Json] = {
        "raw body": {"content": owl, "headers": JPEG, "params": chosen},
        "no type": {"content": owl, "params": chosen},
        "form": {"files": {"image": owl}, "data": chosen},
        "form, query": {"files": {"image": owl}, "params": chosen},
        "form, both": {"files": {"image": owl}, "data": {"r": 3, "top_k": 4}}
        | {"params": {"method": "tome"}},
        "json": {"json": {"image": text, **chosen}},
        "json, query": {"json": {"image": text}, "params": chosen},
        "data uri": {"json": {"image": f"data:image/jpeg;base64,{text}", **chosen}},
    }
    async with app_client() as client:
        wanted = (await client.post(URL, **forms["raw body"])).json()
        assert (wanted["r"], wanted["method"], len(wanted["predictions"])) == (3, "tome", 4)
        for name, form in forms.items():
            response = await client.post(URL, **form)
            assert response.status_code == 200, (name, response.text)
            answer = response.json()
            assert close(answer["predictions"], wanted["predictions"]), name
            for member in ("model", "method", "tier", "r", "schedule", "tokens", "macs_ratio"):
                assert answer[member] == wanted[member], (name, member)


async def test_a_tier_is_what_the_models_page_says(app_client: AppClient, owl: bytes) -> None:
    async with app_client(default_tier="fast") as client:
        info = (await client.get("/v1/models/tiny")).json()
        tiers = [tier["tier"] for tier in info["tiers"]]
        assert tiers == ["exact", "high", "balanced", "fast", "turbo", "extreme"]
        for tier in info["tiers"]:
            params = {"tier": tier["tier"]}
            answer = (await client.post(URL, content=owl, params=params)).json()
            for member in ("tier", "method", "r", "schedule", "tokens", "macs_ratio"):
                assert answer[member] == tier[member], (tier, member)
        assert (await client.post(URL, content=owl)).json()["tier"] == "fast"


async def test_a_bad_image_among_good_ones_fails_alone(
    app_client: AppClient, examples: list[Path]
) -> None:
    photos = [path.read_bytes() for path in examples[:5]]
    async with app_client() as client:
        alone = [(await client.post(URL, content=photo)).json() for photo in photos]
        files = [("image", photo) for photo in photos]
        files.insert(2, ("image", b"no image"))
        files.append(("image", b""))
        response = await client.post(URL, files=files)
    assert response.status_code == 200
    request_id = response.headers["x-request-id"]
    results = response.json()["results"]
    bad = [results.pop(2), results.pop()]
    for item, detail in zip(bad, ["known format", "empty"], strict=True):
        assert (item["status"], item["code"]) == (400, "invalid_image")
        assert detail in item["detail"]
        assert item["request_id"] == request_id
    assert len(results) == 5
    for item, wanted in zip(results, alone, strict=True):
        assert set(item) == MEMBERS
        assert item["request_id"] == request_id
        assert close(item["predictions"], wanted["predictions"])


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [
        ("abc-123_X.y:z", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("two words", False),
        ("<script>", False),
        ("../../etc", False),
        ("tab\tbed", False),
        ("ünicode", False),
        (None, False),
    ],
)
async def test_a_request_id_is_echoed_or_made(
    app_client: AppClient, owl: bytes, sent: str | None, echoed: bool
) -> None:
    headers = {} if sent is None else {"x-request-id": sent.encode("latin-1")}
    async with app_client(warmup_tiers=()) as client:
        for body, params in ((owl, {}), (b"", {}), (owl, {"r": -1})):
            response = await client.post(URL, content=body, headers=headers, params=params)
            request_id = response.headers["x-request-id"]
            assert response.json()["request_id"] == request_id
            assert (request_id == sent) == echoed
            assert echoed or len(request_id) == 32


async def test_whoever_cannot_wait_gets_504(app_client: AppClient, owl: bytes) -> None:
    async with app_client() as client:
        hasty = [client.post(URL, content=owl, params={"deadline_ms": 1e-3}) for _ in range(20)]
        responses = await asyncio.gather(*hasty, client.post(URL, content=owl))
        assert responses.pop().status_code == 200
        for response in responses:
            assert response.status_code == 504
            assert response.json()["code"] == "deadline_exceeded"
            assert "deadline_ms" in response.json()["detail"]
        assert await metric(client, "rapid_requests_total", code="504") == 20
        assert await metric(client, "rapid_requests_total", code="504", result="refused") == 20
        assert await metric(client, "rapid_rejected_total", reason="deadline_exceeded") == 20


async def test_a_deadline_that_could_be_kept_and_was_not_is_an_error(
    app_client: AppClient, owl: bytes
) -> None:
    def be_slow(module: nn.Module, _: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, VisionTransformer):
            time.sleep(1.1)

    pictures = {"name": "image", "shape": [1], "datatype": "BYTES"}
    inputs = [{**pictures, "data": [base64.b64encode(owl).decode()]}]
    async with app_client() as client:
        await client.post(URL, content=owl)
        hook = nn.modules.module.register_module_forward_pre_hook(be_slow)
        late = await client.post(URL, content=owl, params={"deadline_ms": 1000})
        hook.remove()
        hasty = {"inputs": inputs, "parameters": {"timeout": 1}}  # a microsecond
        hopeless = await client.post("/v2/models/tiny/infer", json=hasty)
        assert (late.status_code, hopeless.status_code) == (504, 504)
        for result in ("failed", "refused"):
            labels = {"code": "504", "result": result, "model": "tiny"}
            assert await metric(client, "rapid_requests_total", **labels) == 1


async def test_whoever_stops_waiting_leaves_the_queue(
    app_client: AppClient, small_pngs: list[bytes]
) -> None:
    files = [("image", png) for png in small_pngs]
    num_answered = num_refused = num_too_tight = 0
    async with app_client(max_batch_size=1) as client:
        for deadline_ms in (2**i / 2 for i in range(12)):  # whatever the machine, one falls between
            params = {"deadline_ms": deadline_ms, "r": 0}
            response = await client.post(URL, files=files, params=params)
            if response.status_code != 200:  # the device is still busy with the last one's image
                assert response.status_code in (429, 504)
                num_refused += len(files)
                num_too_tight += response.status_code == 504
                continue
            results = response.json()["results"]
            assert {item.get("status", 200) for item in results} <= {200, 504}
            num_answered += sum("predictions" in item for item in results)
            assert await metric(client, "rapid_queue_images") == 0
            assert await metric(client, "rapid_inflight_requests") == 0
        assert await metric(client, "rapid_images_total") == num_answered > 0
        num_late = await metric(client, "rapid_rejected_total", reason="deadline_exceeded")
        num_late -= num_too_tight  # counted once for all images of the request
        assert num_answered + num_late + num_refused == 12 * len(files)


async def test_a_full_service_refuses_at_once_and_answers_whom_it_let_in(
    app_client: AppClient, owl: bytes
) -> None:
    async with app_client(max_queue_images=2) as client:
        wanted = (await client.post(URL, content=owl)).json()["predictions"]
        responses = await asyncio.gather(*(client.post(URL, content=owl) for _ in range(30)))
        accepted = [response for response in responses if response.status_code == 200]
        refused = [response for response in responses if response.status_code == 429]
        assert len(accepted) >= 2
        assert len(refused) >= 1
        assert len(accepted) + len(refused) == 30
        assert all(close(response.json()["predictions"], wanted) for response in accepted)
        for response in refused:
            assert response.json()["code"] == "overloaded"
            assert int(response.headers["retry-after"]) >= 1
        assert (await client.post(URL, content=owl)).status_code == 200
        assert await metric(client, "rapid_rejected_total", reason="overloaded") == len(refused)


async def test_a_request_is_let_in_as_a_whole_or_not_at_all(
    app_client: AppClient, owl: bytes
) -> None:
    images = [("image", owl)] * 5
    async with app_client(max_queue_images=2) as client:
        alone = await client.post(URL, files=images)  # larger than the limit, but nobody is inside
        assert [item["model"] for item in alone.json()["results"]] == ["tiny"] * 5
        responses = await asyncio.gather(*(client.post(URL, files=images) for _ in range(6)))
        statuses = {response.status_code for response in responses}
        assert statuses == {200, 429}


async def test_a_long_parameter_is_not_repeated_in_full(app_client: AppClient, owl: bytes) -> None:
    async with app_client() as client:
        refused = await client.post(URL, data={"model": "x" * 900}, files={"image": owl})
        assert refused.status_code == 404
        assert len(refused.json()["detail"]) < 600


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health_can_be_asked_without_a_body(app_client: AppClient, path: str) -> None:
    async with app_client() as client:
        assert (await client.head(path)).status_code == 200


async def test_bodies_that_are_still_arriving_count(app_client: AppClient, owl: bytes) -> None:
    started, end = asyncio.Event(), asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield owl[:1000]
        started.set()
        await end.wait()
        yield owl[1000:]

    async with app_client(max_queue_bytes=2 * len(owl)) as client:
        headers = {"content-length": str(len(owl))}
        slow = asyncio.create_task(client.post(URL, content=slow_body(), headers=headers))
        await started.wait()
        assert (await client.post(URL, content=owl)).status_code == 200
        refused = await client.post(URL, content=bytes(2 * len(owl)))
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        end.set()
        assert (await slow).status_code == 200
        assert (await client.post(URL, content=bytes(2 * len(owl)))).status_code == 400


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model: 4 patches, 2 blocks, 3 classes."""
    torch.manual_seed(1)
    size = {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2}
    folder = tmp_path_factory.mktemp("models") / "small"
    timm.models.save_for_hf(
        timm.create_model("vit_tiny_patch16_224", num_classes=3, **size),
        folder,
        model_config={
            "model_args": size,
            "pretrained_cfg": {"input_size": (3, 32, 32), "num_classes": 3},
            "label_names": ["cat", "dog", "emu"],
        },
        safe_serialization=True,
    )
    return folder


async def test_several_models_in_one_service(
    app_client: AppClient, tiny_model: Path, three_classes: Path, owl: bytes
) -> None:
    specs = (str(tiny_model), f"pets={three_classes}", str(three_classes))
    async with app_client(models=specs) as client:
        listed = (await client.get("/v1/models")).json()["models"]
        assert [model["name"] for model in listed] == ["tiny", "pets", "small"]

        async def ask(**params: str) -> httpx.Response:
            return await client.post(URL, content=owl, params=params)

        named = [ask(model=name) for name in ("tiny", "pets", "small") * 3]
        responses = await asyncio.gather(ask(), *named)
        assert await metric(client, "rapid_model_ready") == 3
        assert await metric(client, "rapid_images_total", model="pets") == 3
        unknown = await ask(model="large")
    answers = [response.json() for response in responses]
    assert [answer["model"] for answer in answers] == ["tiny", *["tiny", "pets", "small"] * 3]
    tokens = {answer["model"]: answer["tokens"]["input"] for answer in answers}
    assert tokens == {"tiny": 17, "pets": 5, "small": 5}
    for answer in answers:
        labels = {item["label"] for item in answer["predictions"]}
        assert (labels == {"cat", "dog", "emu"}) == (answer["model"] != "tiny")
    assert unknown.status_code == 404
    assert "tiny, pets, small" in unknown.json()["detail"]


async def test_a_model_describes_itself(app_client: AppClient) -> None:
    async with app_client() as client:
        info = (await client.get("/v1/models/tiny")).json()
        assert (await client.get("/v1/models")).json() == {"models": [info]}
        wanted = {
            "name": "tiny",
            "architecture": "vit_tiny_patch16_224",
            "input_size": [3, 64, 64],
            "num_classes": 10,
            "num_tokens": 17,
            "num_blocks": 4,
            "max_r": 8,
            "default_tier": "balanced",
        }
        assert {member: info[member] for member in wanted} == wanted
        assert set(info) >= {"methods", "tiers"}
        tiers = {tier["tier"]: tier for tier in info["tiers"]}
        assert tiers["exact"]["schedule"] == [0, 0, 0, 0]
        assert tiers["exact"]["tokens"] == {"input": 17, "output": 17}
        assert (
            0.75 < tiers["exact"]["macs_ratio"] < 1
        )  # the last block computes the CLS token alone
        ratios = [tier["macs_ratio"] for tier in tiers.values()]
        assert ratios == sorted(ratios, reverse=True)
        for tier in tiers.values():
            removed = tier["tokens"]["input"] - tier["tokens"]["output"]
            assert sum(tier["schedule"]) == removed


@pytest.mark.e2e
async def test_the_bundled_model_says_what_it_costs(bundled: httpx.AsyncClient) -> None:
    info = (await bundled.get("/v1/models/everyday-vit-s14")).json()
    N, C = 257, 384
    blocks = 11 * (4 * N * C**2 + 2 * N**2 * C + 8 * N * C**2)
    blocks += 2 * N * C**2 + 2 * C**2 + 2 * N * C + 8 * C**2  # the last one: the CLS token alone
    embedding, head = (N - 1) * 3 * 14**2 * C, C * info["num_classes"]
    exact = info["tiers"][0]
    assert (exact["tier"], info["num_classes"]) == ("exact", 334)
    assert exact["gmacs"] == pytest.approx((blocks + embedding + head) / 1e9, abs=6e-4)


async def test_metrics_count_what_happened(app_client: AppClient, owl: bytes) -> None:
    async with app_client(max_batch_size=4) as client:
        warm_ups = await metric(client, "rapid_batch_size_count")
        for params in ({"tier": "fast"}, {"tier": "fast"}, {"r": 2}, {"tier": "fast", "r": 2}):
            await client.post(URL, content=owl, params=params)
        await client.post(URL, content=b"no image", params={"tier": "fast"})
        await client.post(URL, content=owl, params={"model": "gpt"})
        await client.post(URL, files=[("image", owl)] * 3 + [("image", b"")], params={"r": 1})

        async def requests(**labels: str) -> float:
            return await metric(client, "rapid_requests_total", **labels)

        tiny = {"model": "tiny"}
        assert await requests() == 7
        assert await requests(**tiny, tier="fast", code="200") == 2
        assert await requests(**tiny, tier="fast", code="400") == 1
        assert await requests(**tiny, tier="custom", code="200") == 2
        assert await requests(model="unknown", tier="unknown", code="404") == 1
        assert await requests(code="422") == 1
        assert await metric(client, "rapid_rejected_total", reason="invalid_image") == 2
        assert await metric(client, "rapid_rejected_total", reason="model_not_found") == 1
        assert await metric(client, "rapid_rejected_total", reason="invalid_parameter") == 1

        assert await metric(client, "rapid_images_total", **tiny, tier="fast") == 2
        assert await metric(client, "rapid_images_total", **tiny, tier="custom") == 4
        assert await metric(client, "rapid_batch_size_sum", **tiny, method="rapid") == 6
        assert await metric(client, "rapid_batch_size_bucket", **tiny, le="4.0") >= 4
        assert warm_ups == 0

        for name in ("queue", "inference"):
            assert await metric(client, f"rapid_{name}_duration_seconds_count", tier="fast") == 2
            assert await metric(client, f"rapid_{name}_duration_seconds_count", **tiny) == 6
        assert await metric(client, "rapid_decode_duration_seconds_count", **tiny) == 6
        assert await metric(client, "rapid_request_duration_seconds_count") == 7
        for result, number in {"answered": 4, "refused": 3}.items():
            assert await requests(result=result) == number
            seconds = "rapid_request_duration_seconds_count"
            assert await metric(client, seconds, result=result) == number
        whole = await metric(client, "rapid_request_duration_seconds_sum")
        assert whole > await metric(client, "rapid_decode_duration_seconds_sum") > 0
        assert await metric(client, "rapid_inflight_requests") == 0
        assert await metric(client, "rapid_queue_images") == 0


async def all_at_once(
    client: httpx.AsyncClient, photos: list[bytes], rs: list[int], num_requests: int
) -> None:
    """Mixed photos with mixed r, first one by one, then together in another order."""

    async def ask(photo: bytes, r: int) -> Json:
        params = {"r": r, "deadline_ms": 300_000}
        response = await client.post(URL, content=photo, headers=JPEG, params=params)
        assert response.status_code == 200, response.text
        answer: Json = response.json()
        return answer

    pairs = list(itertools.product(photos, rs))
    alone = {pair: await ask(*pair) for pair in pairs}
    mixed = list(itertools.islice(itertools.cycle(pairs), num_requests))
    random.Random(0).shuffle(mixed)
    answers = await asyncio.gather(*(ask(*pair) for pair in mixed))
    for (photo, r), answer in zip(mixed, answers, strict=True):
        assert answer["r"] == r
        for member in ("schedule", "tokens", "macs_ratio"):
            assert answer[member] == alone[photo, r][member]
        assert close(answer["predictions"], alone[photo, r]["predictions"])
    assert len({answer["request_id"] for answer in answers}) == num_requests
    assert max(answer["batch_size"] for answer in answers) > 1


@pytest.mark.e2e
async def test_64_clients_at_once_each_get_the_answer_to_their_own_question(
    bundled: httpx.AsyncClient, examples: list[Path]
) -> None:
    photos = [path.read_bytes() for path in examples[:3]]
    await all_at_once(bundled, photos, [0, 14, 20, 32], 64)


async def test_the_same_in_small(app_client: AppClient, small_pngs: list[bytes]) -> None:
    async with app_client(max_batch_size=5) as client:
        await all_at_once(client, small_pngs, [0, 3, 8], 100)
