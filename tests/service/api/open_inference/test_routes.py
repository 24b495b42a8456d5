"""The Open Inference Protocol under /v2, every endpoint, in this process and with a small model."""

import base64
import gzip
import io
import itertools
import json
import math
import struct
import zlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from torch import Tensor

import rapid_core
from service.api.app import create_app
from service.models.timm_models import create_transform, timm
from service.runtime.runtime import Runtime
from service.settings import Settings
from tests.conftest import AppClient

pytestmark = pytest.mark.anyio

MODEL = "/v2/models/tiny"
INFER = f"{MODEL}/infer"
LENGTH = "inference-header-content-length"
TIERS = ["exact", "high", "balanced", "fast", "turbo", "extreme"]
K = 10
Json = dict[str, Any]


@pytest.fixture(scope="module")
def pngs(examples: list[Path]) -> list[bytes]:
    """Three example photos in 80 x 60, without loss."""
    files = [io.BytesIO() for _ in range(3)]
    for path, file in zip(examples, files, strict=False):
        with Image.open(path) as image:
            image.resize((80, 60)).save(file, "PNG")
    return [file.getvalue() for file in files]


@pytest.fixture(scope="module")
def pixels(tiny_model: Path, pngs: list[bytes]) -> Tensor:
    """The same photos as the model wants them: (3, 3, 64, 64)."""
    return pixels_of(load(tiny_model), pngs)


def load(folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return model


def pixels_of(model: torch.nn.Module, files: Iterable[bytes]) -> Tensor:
    transform = create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return torch.stack([transform(Image.open(io.BytesIO(file))) for file in files])


def image_input(*files: bytes) -> Json:
    data = [base64.b64encode(file).decode() for file in files]
    return {"name": "image", "datatype": "BYTES", "shape": [len(files)], "data": data}


def pixel_input(pixels: Tensor) -> Json:
    shape = list(pixels.shape)
    return {"name": "pixel_values", "datatype": "FP32", "shape": shape, "data": pixels.tolist()}


def raw(tensor: Tensor) -> bytes:
    return tensor.numpy().astype("<f4").tobytes()


def raw_files(*files: bytes) -> bytes:
    """BYTES as binary data: each element with its length before it."""
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def with_binary(request: Json, *binary_data: bytes) -> Json:
    """Arguments of a post: the inputs get their sizes, and their data follow the JSON."""
    inputs = [
        {**entry, "parameters": {"binary_data_size": len(data)}}
        for entry, data in zip(request["inputs"], binary_data, strict=True)
    ]
    for entry in inputs:
        entry.pop("data", None)
    text = json.dumps({**request, "inputs": inputs}).encode()
    return {"content": b"".join((text, *binary_data)), "headers": {LENGTH: str(len(text))}}


async def infer(client: httpx.AsyncClient, *inputs: Json, **members: object) -> httpx.Response:
    return await client.post(INFER, json={"inputs": inputs, **members})


def answer_of(response: httpx.Response) -> Json:
    """The JSON part of an answer."""
    assert response.status_code == 200, response.text
    length = response.headers.get(LENGTH)
    kind = "application/json" if length is None else "application/octet-stream"
    assert response.headers["content-type"] == kind
    content = response.content if length is None else response.content[: int(length)]
    answer: Json = json.loads(content)
    assert set(answer) <= {"model_name", "model_version", "id", "parameters", "outputs"}
    assert (answer["model_name"], answer["model_version"]) == ("tiny", "1")
    return answer


def outputs_of(response: httpx.Response) -> dict[str, Tensor | list[str]]:
    """Each output, in its order, whichever way it came: a tensor, or texts."""
    answer, found = answer_of(response), {}
    rest = response.content[int(response.headers.get(LENGTH, len(response.content))) :]
    for output in answer["outputs"]:
        name, shape, data = output["name"], output["shape"], output.get("data")
        if data is None:
            size = output["parameters"]["binary_data_size"]
            part, rest = rest[:size], rest[size:]
            assert len(part) == size
            is_text = output["datatype"] == "BYTES"
            data = texts(part) if is_text else struct.unpack(f"<{size // 4}f", part)
        assert len(data) == math.prod(shape)
        if output["datatype"] == "BYTES":
            found[name] = list(data)
        else:
            assert output["datatype"] == "FP32"
            found[name] = torch.tensor(data).reshape(shape)
    assert not rest
    return found


def texts(part: bytes) -> list[str]:
    found = []
    while part:
        end = 4 + struct.unpack("<I", part[:4])[0]
        found.append(part[4:end].decode())
        part = part[end:]
    return found


def check_error(response: httpx.Response, status: int, *fragments: str) -> None:
    """An error as the clients of the protocol want it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert isinstance(document["error"], str)
    assert document["status"] == status
    assert document["request_id"] == response.headers["x-request-id"]
    for fragment in fragments:
        assert fragment in document["error"], document["error"]


def same(mine: dict[str, Tensor | list[str]], wanted: dict[str, Tensor | list[str]]) -> bool:
    """The same outputs, within what a batch changes."""
    return list(mine) == list(wanted) and all(
        torch.allclose(torch.as_tensor(mine[name]), torch.as_tensor(wanted[name]), atol=1e-5)
        for name in wanted
    )


# Documents


async def test_the_server_describes_itself(app_client: AppClient) -> None:
    async with app_client() as client:
        for path in ("/v2", "/v2/"):
            response = await client.get(path, follow_redirects=False)
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            document = response.json()
            assert set(document) == {"name", "version", "extensions"}
            assert (document["name"], document["version"]) == ("rapid-vit", version("rapid-vit"))
            assert set(document["extensions"]) == {
                *("binary_tensor_data", "classification", "model_configuration", "parameters"),
                *("schedule_policy", "statistics"),
            }


async def test_health(app_client: AppClient) -> None:
    async with app_client() as client:
        live, ready = [await client.get(f"/v2/health/{word}") for word in ("live", "ready")]
        assert (live.status_code, live.json()) == (200, {"live": True})
        assert (ready.status_code, ready.json()) == (200, {"ready": True})
        for path in (f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
            response = await client.get(path)
            assert (response.status_code, response.json()["ready"]) == (200, True)


async def test_whoever_comes_too_early_is_told(tiny_model: Path, owl: bytes) -> None:
    settings = Settings(models=(str(tiny_model),))
    runtime = Runtime(settings)
    app = create_app(settings, runtime)  # and nobody starts it
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/v2")).status_code == 200
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        for path in ("/v2/health/ready", "/v2/models", MODEL, f"{MODEL}/ready"):
            check_error(await client.get(path), 503)
        check_error(await infer(client, image_input(owl)), 503)
        runtime.lifecycle.fail()
        check_error(await client.get("/v2/health/live"), 503)
        check_error(await client.get("/v2/health/ready"), 503)


async def test_the_models_and_their_metadata(app_client: AppClient) -> None:
    async with app_client() as client:
        assert (await client.get("/v2/models")).json() == {"models": ["tiny"]}
        for path in (MODEL, f"{MODEL}/versions/1"):
            response = await client.get(path)
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            assert response.json() == {
                "name": "tiny",
                "versions": ["1"],
                "platform": "pytorch_eager",
                "inputs": [
                    {"name": "image", "datatype": "BYTES", "shape": [-1]},
                    {"name": "pixel_values", "datatype": "FP32", "shape": [-1, 3, 64, 64]},
                ],
                "outputs": [
                    {"name": "logits", "datatype": "FP32", "shape": [-1, K]},
                    {"name": "probabilities", "datatype": "FP32", "shape": [-1, K]},
                ],
            }


async def test_the_configuration_has_what_perf_analyzer_reads(app_client: AppClient) -> None:
    async with app_client(max_images_per_request=5) as client:
        for path in (f"{MODEL}/config", f"{MODEL}/versions/1/config"):
            response = await client.get(path)
            assert response.status_code == 200
            config = response.json()
            assert (config["name"], config["platform"]) == ("tiny", "pytorch_eager")
            assert config["max_batch_size"] == 5
            assert "dynamic_batching" in config
            inputs = {entry["name"]: entry for entry in config["input"]}
            assert inputs["image"]["data_type"] == "TYPE_STRING"
            assert inputs["pixel_values"]["data_type"] == "TYPE_FP32"
            assert inputs["pixel_values"]["dims"] == [3, 64, 64]
            assert all(entry["optional"] for entry in inputs.values())
            assert {entry["name"]: entry["dims"] for entry in config["output"]} == {
                "logits": [K],
                "probabilities": [K],
            }


async def statistics(client: httpx.AsyncClient, path: str = f"{MODEL}/stats") -> Json:
    response = await client.get(path)
    assert response.status_code == 200, response.text
    (entry,) = response.json()["model_stats"]
    assert (entry["name"], entry["version"]) == ("tiny", "1")
    found: Json = entry
    return found


async def test_statistics_count_images_and_batches(app_client: AppClient, pixels: Tensor) -> None:
    four = torch.cat([pixels, pixels[:1]])
    # nothing but a full batch starts within these ten seconds
    async with app_client(max_batch_size=4, max_wait_ms=10_000) as client:
        before = await statistics(client)
        assert (before["inference_count"], before["execution_count"]) == (0, 0)
        assert (before["last_inference"], before["batch_stats"]) == (0, [])
        assert set(before["inference_stats"]) == {
            *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"),
            *("cache_hit", "cache_miss"),
        }
        for _ in range(2):
            assert (await infer(client, pixel_input(four))).status_code == 200
        after = await statistics(client)
        assert after == await statistics(client, f"{MODEL}/versions/1/stats")
        assert after == await statistics(client, "/v2/models/stats")
    assert (after["inference_count"], after["execution_count"]) == (8, 2)
    assert after["last_inference"] > 1_700_000_000_000
    counts = {name: item["count"] for name, item in after["inference_stats"].items()}
    done = dict.fromkeys(
        ("success", "queue", "compute_input", "compute_infer", "compute_output"), 8
    )
    assert counts == {**done, "fail": 0, "cache_hit": 0, "cache_miss": 0}
    assert after["inference_stats"]["success"]["ns"] > 0
    assert after["inference_stats"]["compute_infer"]["ns"] > 0
    (batch,) = after["batch_stats"]
    assert batch["batch_size"] == 4
    for name in ("compute_input", "compute_infer", "compute_output"):
        assert batch[name]["count"] == 2
    assert batch["compute_infer"]["ns"] > 0


async def test_statistics_of_batches_of_one(app_client: AppClient, pngs: list[bytes]) -> None:
    async with app_client(max_batch_size=1) as client:
        assert (await infer(client, image_input(*pngs))).status_code == 200
        assert (await client.post("/v1/classify", content=pngs[0])).status_code == 200
        after = await statistics(client)
    assert (after["inference_count"], after["execution_count"]) == (4, 4)
    assert [batch["batch_size"] for batch in after["batch_stats"]] == [1]
    assert after["batch_stats"][0]["compute_infer"]["count"] == 4
    assert after["inference_stats"]["compute_input"]["ns"] > 0


async def test_statistics_count_failed_images(app_client: AppClient, pngs: list[bytes]) -> None:
    async with app_client() as client:
        check_error(await infer(client, image_input(b"\xffno image", pngs[0], b"\xff")), 400)
        after = await statistics(client)
        assert after["inference_stats"]["fail"]["count"] == 2
        assert after["inference_stats"]["success"]["count"] == after["inference_count"] == 1
        late = await infer(client, image_input(*pngs), parameters={"timeout": 1})
        check_error(late, 504)
        after = await statistics(client)
        assert after["inference_stats"]["fail"]["count"] == 5
        assert after["inference_stats"]["success"]["count"] == after["inference_count"] == 1
        assert (await client.post("/v1/classify", content=b"\xff")).status_code == 400
        after = await statistics(client)
        assert after["inference_stats"]["fail"]["count"] == 6


async def test_what_is_not_here_is_404(app_client: AppClient, owl: bytes) -> None:
    names = ("other", "tiny/versions/2", "tiny/versions/01", "a%2Fb%20c")
    body = {"inputs": [image_input(owl)]}
    async with app_client(warmup_tiers=()) as client:
        for name in names:
            there = ["version", "1"] if name.startswith("tiny") else []
            url = f"/v2/models/{name}"
            check_error(await client.post(f"{url}/infer", json=body), 404, *there)
            for path in ("", "/ready", "/config", "/stats"):
                check_error(await client.get(f"{url}{path}"), 404, *there)


OTHER_PATHS: list[tuple[str, str, int]] = [
    ("GET", "/v2/nothing", 404),
    ("GET", f"{MODEL}/nothing", 404),
    ("POST", "/v2/repository/index", 404),
    ("GET", INFER, 405),
    ("POST", MODEL, 405),
    ("POST", "/v2/health/live", 405),
]


async def test_other_paths_and_methods(app_client: AppClient) -> None:
    async with app_client(warmup_tiers=()) as client:
        for method, path, status in OTHER_PATHS:
            check_error(await client.request(method, path), status)


async def test_api_keys(app_client: AppClient, tmp_path: Path, owl: bytes) -> None:
    (tmp_path / "keys").write_text("me 0123456789abcdef\n")
    async with app_client(api_keys_file=str(tmp_path / "keys")) as client:
        for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
            assert (await client.get(path)).status_code == 200
        for path in ("/v2/models", MODEL, f"{MODEL}/ready", f"{MODEL}/config", f"{MODEL}/stats"):
            check_error(await client.get(path), 401)
        check_error(await infer(client, image_input(owl)), 401)
        client.headers["authorization"] = "Bearer 0123456789abcdef"
        assert (await client.get(MODEL)).status_code == 200
        assert (await infer(client, image_input(owl))).status_code == 200


# Inference: what goes in


async def test_every_form_of_the_input_gets_the_same_answer(
    app_client: AppClient, pngs: list[bytes], pixels: Tensor
) -> None:
    request = {"inputs": [image_input(*pngs)]}
    column = {**image_input(*pngs), "shape": [3, 1]}
    flat = {**pixel_input(pixels), "data": pixels.flatten().tolist()}
    pixel_request = {"inputs": [pixel_input(pixels)]}
    encoded = [base64.b64encode(png) for png in pngs]
    forms: dict[str, Json] = {
        "base64": {"json": request},
        "base64 in a column": {"json": {"inputs": [column]}},
        "base64, nested": {"json": {"inputs": [{**column, "data": [[x] for x in column["data"]]}]}},
        "nested pixels": {"json": pixel_request},
        "flat pixels": {"json": {"inputs": [flat]}},
        "binary files": with_binary(request, raw_files(*pngs)),
        "binary base64": with_binary(request, raw_files(*encoded)),
        "binary pixels": with_binary(pixel_request, raw(pixels)),
    }
    async with app_client() as client:
        wanted = outputs_of(await client.post(INFER, **forms["base64"]))
        assert [name for name, _ in wanted.items()] == ["logits", "probabilities"]
        for name, form in forms.items():
            assert same(outputs_of(await client.post(INFER, **form)), wanted), name
        url = f"{MODEL}/versions/1/infer"
        assert same(outputs_of(await client.post(url, json=request)), wanted)


async def test_a_bare_file_is_a_request(app_client: AppClient, owl: bytes) -> None:
    curl = {LENGTH: "0", "content-type": "application/x-www-form-urlencoded"}  # --data-binary
    async with app_client() as client:
        wanted = outputs_of(await infer(client, image_input(owl)))
        for headers in (curl, {LENGTH: "0", "content-type": "image/jpeg"}, {LENGTH: "0"}):
            response = await client.post(INFER, content=owl, headers=headers)
            answer = answer_of(response)
            assert "id" not in answer
            assert answer["parameters"]["reason"] == "default"
            assert all("data" not in output for output in answer["outputs"])
            assert same(outputs_of(response), wanted)
        zipped = {LENGTH: "0", "content-encoding": "gzip"}
        response = await client.post(INFER, content=gzip.compress(owl), headers=zipped)
        assert same(outputs_of(response), wanted)
        check_error(await client.post(INFER, content=b"", headers={LENGTH: "0"}), 400, "empty")
        check_error(await client.post(INFER, content=owl), 400, "Inference-Header-Content-Length")


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "identity"])
async def test_compressed_bodies(app_client: AppClient, pngs: list[bytes], encoding: str) -> None:
    compress = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}
    request = {"inputs": [image_input(*pngs)]}
    async with app_client() as client:
        wanted = outputs_of(await client.post(INFER, json=request))
        binary = with_binary(request, raw_files(*pngs))
        for form in ({"content": json.dumps(request).encode(), "headers": {}}, binary):
            content = compress[encoding.lower()](form["content"])
            headers = {**form["headers"], "content-encoding": encoding}
            response = await client.post(INFER, content=content, headers=headers)
            assert same(outputs_of(response), wanted)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_bodies_that_do_not_inflate(app_client: AppClient, encoding: str) -> None:
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = compress(b" " * 2_000_000)
    headers = {"content-encoding": encoding}
    async with app_client(max_body_bytes=1_000_000) as client:
        assert len(bomb) < 10_000
        check_error(await client.post(INFER, content=bomb, headers=headers), 413, "1000000")
        for damaged in (b"", b"{}", compress(b"{}")[:-1], compress(b"{}") + b"x"):
            check_error(await client.post(INFER, content=damaged, headers=headers), 400)
        headers = {"content-encoding": "br"}
        check_error(await client.post(INFER, content=bomb, headers=headers), 415, "gzip, deflate")
        check_error(await client.post(INFER, content=bytes(1_000_001)), 413, "1000000")


async def test_too_many_images(app_client: AppClient, pngs: list[bytes], pixels: Tensor) -> None:
    async with app_client(max_images_per_request=2) as client:
        assert (await infer(client, image_input(*pngs[:2]))).status_code == 200
        check_error(await infer(client, image_input(*pngs)), 413, "many images", "allowed are 2")
        binary = with_binary({"inputs": [image_input(*pngs)]}, raw_files(*pngs))
        check_error(await client.post(INFER, **binary), 413, "more than 2 elements")
        many = with_binary({"inputs": [pixel_input(pixels)]}, raw(pixels))
        check_error(await client.post(INFER, **many), 413, "many images", "allowed are 2")
        check_error(await infer(client, pixel_input(pixels)), 413, "send fewer images")


async def test_json_may_be_as_large_as_the_largest_request_needs(
    app_client: AppClient, pixels: Tensor
) -> None:
    async with app_client(max_images_per_request=3) as client:
        assert (await infer(client, pixel_input(pixels))).status_code == 200
        flat = {**pixel_input(pixels), "data": pixels.flatten().tolist()}
        assert (await infer(client, flat)).status_code == 200
        for value, num_allowed in (("0", pixels.numel()), ("[]", 3 * (3 * 64 + 3 + 1))):
            data = ",".join([value] * (num_allowed + 1100))
            response = await client.post(INFER, content=f'{{"inputs": [{data}]}}')
            check_error(response, 413, f"{pixels.numel() + 1024} values")


async def test_a_bad_image_is_named_by_its_number(
    app_client: AppClient, owl: bytes, pngs: list[bytes]
) -> None:
    bad: dict[bytes, str] = {b"": "empty", b"\xff\xd8": "image", b"hello": "known format"}
    async with app_client(max_pixels=10_000) as client:
        for file, detail in bad.items():
            response = await infer(client, image_input(pngs[0], pngs[1], file))
            check_error(response, 400, "image 2", detail)
            binary = with_binary({"inputs": [image_input(pngs[0], file)]}, raw_files(pngs[0], file))
            check_error(await client.post(INFER, **binary), 400, "image 1", detail)
        check_error(await infer(client, image_input(pngs[0], owl)), 413, "image 1", "pixels")
        check_error(await infer(client, image_input(owl, pngs[0])), 413, "image 0", "pixels")
        not_base64 = {**image_input(b""), "data": ["ä"]}
        check_error(await infer(client, not_base64), 400, "image 0")


PIXELS: Json = {"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 64, 64]}
IMAGE: Json = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGk="]}
NUM = 3 * 64 * 64


BAD_INPUTS: list[tuple[list[Json], list[str]]] = [
    ([], ["inputs"]),
    ([{**IMAGE, "name": "picture"}], ["picture", "image", "pixel_values"]),
    ([IMAGE, {**PIXELS, "data": [0.5] * NUM}], ["image", "pixel_values", "one"]),
    ([IMAGE, {**IMAGE, "name": "mask"}], ["mask", "one"]),
    ([IMAGE, IMAGE], ["image", "twice"]),
    ([{**IMAGE, "shape": [0], "data": []}], ["image"]),
    ([{**PIXELS, "shape": [0, 3, 64, 64], "data": []}], ["pixel_values"]),
    ([{**IMAGE, "shape": [2]}], ["image", "2"]),
    ([{**IMAGE, "shape": []}], ["image"]),
    ([{**IMAGE, "shape": [1, 1, 1]}], ["image", "[N]"]),
    ([{**IMAGE, "datatype": "UINT8", "data": [7]}], ["image", "BYTES"]),
    ([{**IMAGE, "datatype": "STRING"}], ["STRING"]),
    ([{**PIXELS, "shape": [3, 64, 64], "data": [0.5] * NUM}], ["[-1, 3, 64, 64]"]),
    ([{**PIXELS, "shape": [1, 64, 64, 3], "data": [0.5] * NUM}], ["[-1, 3, 64, 64]"]),
    ([{**PIXELS, "shape": [1, 3, 32, 32], "data": [0.5] * 3072}], ["[-1, 3, 64, 64]"]),
    ([{**PIXELS, "data": [0.5] * (NUM - 1)}], ["pixel_values"]),
    ([{**PIXELS, "datatype": "FP64", "data": [0.5] * NUM}], ["FP32"]),
    ([{**PIXELS, "datatype": "FP16", "data": [0.5] * NUM}], ["FP16"]),
    ([{**PIXELS, "datatype": "UINT8", "data": [1] * NUM}], ["FP32"]),
    ([{**PIXELS, "data": ["0.5"] * NUM}], ["numbers"]),
    ([{**PIXELS, "data": [1e39] * NUM}], ["range"]),
    ([{"name": "image"}], ["datatype"]),
    ([{"datatype": "BYTES", "shape": [1], "data": ["aGk="]}], ["name"]),
    ([{"name": "image", "datatype": "BYTES", "data": ["aGk="]}], ["shape"]),
    ([{"name": "image", "datatype": "BYTES", "shape": [1]}], ["data"]),
]


async def test_inputs_that_the_model_does_not_have(app_client: AppClient) -> None:
    async with app_client(warmup_tiers=()) as client:
        for inputs, fragments in BAD_INPUTS:
            check_error(await infer(client, *inputs), 400, *fragments)


async def test_numbers_that_are_none(app_client: AppClient, pixels: Tensor) -> None:
    request = {"inputs": [pixel_input(pixels)]}
    async with app_client(warmup_tiers=()) as client:
        for value in (math.nan, math.inf, -math.inf):
            broken = pixels.clone()
            broken[1, 2, 3, 4] = value
            response = await client.post(INFER, **with_binary(request, raw(broken)))
            check_error(response, 400, "pixel_values", "not finite")


async def test_bodies_that_break_the_protocol(app_client: AppClient, pngs: list[bytes]) -> None:
    good = with_binary({"inputs": [image_input(*pngs)]}, raw_files(*pngs))
    content, length = good["content"], int(good["headers"][LENGTH])
    bodies: list[tuple[bytes, str | None]] = [
        *((b"", None), (b"[]", None), (b"{", None), (b'{"inputs": {}}', None), (b"\xff", None)),
        *((content, None), (content, "x"), (content, "-1"), (content, str(len(content) + 1))),
        *((content[:-1], str(length)), (content + b"x", str(length)), (content, str(length - 1))),
    ]
    async with app_client(warmup_tiers=()) as client:
        for body, header in bodies:
            headers = {} if header is None else {LENGTH: header}
            check_error(await client.post(INFER, content=body, headers=headers), 400)
        assert (await client.post(INFER, **good)).status_code == 200


# Inference: what comes out


@pytest.mark.parametrize(("method", "r"), [("rapid", 0), ("rapid", 3), ("rapid", 8), ("tome", 3)])
async def test_the_outputs_are_those_of_the_model(
    app_client: AppClient, tiny_model: Path, pngs: list[bytes], method: str, r: int
) -> None:
    model = load(tiny_model)
    pixels = pixels_of(model, pngs)
    if r:
        model = rapid_core.patch(model, r=r, method=method)
    with torch.inference_mode():
        logits = model(pixels)
    chosen = {"method": method, "r": r}
    async with app_client() as client:
        for entry in (image_input(*pngs), pixel_input(pixels)):
            outputs = outputs_of(await infer(client, entry, parameters=chosen))
            torch.testing.assert_close(outputs["logits"], logits, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(outputs["probabilities"], outputs["logits"].softmax(dim=-1))
        for png, row in zip(pngs, outputs["probabilities"], strict=True):
            params = {**chosen, "top_k": K}
            native = (await client.post("/v1/classify", content=png, params=params)).json()
            for item in native["predictions"]:
                assert row[item["index"]] == pytest.approx(item["probability"], abs=1e-4)


async def test_a_photo_gets_the_native_answer(app_client: AppClient, examples: list[Path]) -> None:
    photos = [path.read_bytes() for path in examples]
    async with app_client() as client:
        outputs = outputs_of(await infer(client, image_input(*photos), parameters={"r": 3}))
        for photo, row in zip(photos, outputs["probabilities"], strict=True):
            params = {"r": 3, "top_k": K}
            native = (await client.post("/v1/classify", content=photo, params=params)).json()
            for item in native["predictions"]:
                assert row[item["index"]] == pytest.approx(item["probability"], abs=1e-4)


@pytest.mark.parametrize("request_id", ["42", "", 'äöü \u2028 "quoted"', "x" * 1000])
async def test_the_id_comes_back(app_client: AppClient, owl: bytes, request_id: str) -> None:
    async with app_client(warmup_tiers=()) as client:
        response = await infer(client, image_input(owl), id=request_id)
        assert answer_of(response)["id"] == request_id
        binary = {"binary_data_output": True}
        response = await infer(client, image_input(owl), id=request_id, parameters=binary)
        assert answer_of(response)["id"] == request_id
        assert "id" not in answer_of(await infer(client, image_input(owl)))
        assert "id" not in answer_of(await infer(client, image_input(owl), id=None))
        check_error(await infer(client, image_input(owl), id=42), 400, "id")


LOGITS, PROBABILITIES = {"name": "logits"}, {"name": "probabilities"}


LISTS: list[tuple[list[Json] | None, list[str]]] = [
    (None, ["logits", "probabilities"]),
    ([], ["logits", "probabilities"]),
    ([LOGITS], ["logits"]),
    ([PROBABILITIES], ["probabilities"]),
    ([PROBABILITIES, LOGITS], ["probabilities", "logits"]),
]


async def test_outputs_as_they_were_asked_for(app_client: AppClient, pngs: list[bytes]) -> None:
    entry = image_input(*pngs)
    async with app_client(warmup_tiers=()) as client:
        all_of_them = outputs_of(await infer(client, entry))
        for (outputs, names), binary in itertools.product(LISTS, (False, True)):
            parameters = {"binary_data_output": binary}
            response = await infer(client, entry, outputs=outputs, parameters=parameters)
            assert (LENGTH in response.headers) == binary
            assert same(outputs_of(response), {name: all_of_them[name] for name in names})
            assert "ignored" not in answer_of(response)["parameters"]


async def test_an_output_decides_for_itself_whether_it_is_binary(
    app_client: AppClient, pixels: Tensor
) -> None:
    def flag(name: str, value: bool | None) -> Json:
        return {} if value is None else {name: value}

    async with app_client(warmup_tiers=()) as client:
        for default, *flags in itertools.product((False, True, None), repeat=3):
            outputs = [
                {"name": name, "parameters": flag("binary_data", value)}
                for name, value in zip(("probabilities", "logits"), flags, strict=True)
            ]
            parameters = flag("binary_data_output", default)
            entry = pixel_input(pixels)
            response = await infer(client, entry, outputs=outputs, parameters=parameters)
            is_binary = ["data" not in output for output in answer_of(response)["outputs"]]
            wanted = [bool(default) if value is None else value for value in flags]
            assert is_binary == wanted, (default, flags)
            found = outputs_of(response)
            torch.testing.assert_close(found["probabilities"], found["logits"].softmax(dim=-1))


@pytest.mark.parametrize("name", ["logits", "probabilities"])
async def test_classification(app_client: AppClient, pngs: list[bytes], name: str) -> None:
    entry = image_input(*pngs)
    async with app_client(warmup_tiers=()) as client:
        values = outputs_of(await infer(client, entry))[name]
        for k, binary in itertools.product((1, 3, K), (False, True)):
            parameters = {"classification": k, "binary_data": binary}
            outputs = [{"name": name, "parameters": parameters}]
            response = await infer(client, entry, outputs=outputs)
            (output,) = answer_of(response)["outputs"]
            assert (output["datatype"], output["shape"]) == ("BYTES", [3, k])
            found = outputs_of(response)[name]
            for number, row in enumerate(values):
                check_classes(found[number * k : (number + 1) * k], row)


def check_classes(entries: list[str], values: Tensor) -> None:
    """The best of the values (K,), best first."""
    parts = [entry.split(":") for entry in entries]
    indices = [int(index) for _, index, _ in parts]
    assert indices == values.sort(descending=True).indices[: len(entries)].tolist()
    assert [label for _, _, label in parts] == [f"thing {index}" for index in indices]
    assert [float(value) for value, _, _ in parts] == pytest.approx(values[indices], abs=1e-5)


BAD_OUTPUTS: list[tuple[list[Json], int, list[str]]] = [
    ([{"name": "logit"}], 400, ["logit", "logits", "probabilities"]),
    ([LOGITS, LOGITS], 400, ["twice"]),
    ([{}], 400, ["name"]),
    ([7], 400, ["outputs"]),
    ([{**LOGITS, "parameters": {"classification": K + 1}}], 422, ["classification", f"{K}"]),
    ([{**LOGITS, "parameters": {"classification": 0}}], 400, ["classification"]),
    ([{**LOGITS, "parameters": {"classification": True}}], 400, ["classification"]),
    ([{**LOGITS, "parameters": {"binary_data": "yes"}}], 400, ["binary_data"]),
    ([{**LOGITS, "parameters": {"shared_memory_region": "a"}}], 400, ["shared memory"]),
]


async def test_outputs_that_cannot_be(app_client: AppClient, owl: bytes) -> None:
    async with app_client(warmup_tiers=()) as client:
        for outputs, status, fragments in BAD_OUTPUTS:
            response = await infer(client, image_input(owl), outputs=outputs)
            check_error(response, status, *fragments)


# Parameters


async def test_what_ran_is_what_was_asked_for(app_client: AppClient, owl: bytes) -> None:
    async with app_client(default_tier="fast") as client:
        tiers = {
            tier["tier"]: tier for tier in (await client.get("/v1/models/tiny")).json()["tiers"]
        }
        assert list(tiers) == TIERS

        async def ran(**parameters: object) -> Json:
            response = await infer(client, image_input(owl), parameters=parameters)
            found: Json = answer_of(response)["parameters"]
            return found

        for name, tier in tiers.items():
            answer = await ran(tier=name)
            assert (answer["tier"], answer["r"]) == (name, tier["r"])
            assert (answer["method"], answer["reason"]) == ("rapid", "requested")
            assert answer["macs_ratio"] == tier["macs_ratio"]
        default = await ran()
        assert (default["tier"], default["reason"]) == ("fast", "default")
        for r, method in ((0, "rapid"), (3, "tome"), (8, "rapid")):
            answer = await ran(r=r, method=method)
            assert (answer["r"], answer["method"], answer["reason"]) == (r, method, "requested")
            assert "tier" not in answer
        assert (await ran(tier="turbo", method="tome"))["method"] == "tome"
        assert (await ran(min_tier="high"))["tier"] == "high"
        assert (await ran(tier="exact", min_tier="turbo"))["tier"] == "exact"


async def test_a_latency_budget(app_client: AppClient, owl: bytes) -> None:
    async with app_client() as client:
        for parameters, tier, reason in (
            ({"max_latency_ms": 3_600_000}, "exact", "latency_budget"),
            ({"max_latency_ms": 1e-6}, "extreme", "latency_budget_missed"),
            ({"max_latency_ms": 1e-6, "min_tier": "fast"}, "fast", "latency_budget_missed"),
        ):
            response = await infer(client, image_input(owl), parameters=parameters)
            ran = answer_of(response)["parameters"]
            assert (ran["tier"], ran["reason"]) == (tier, reason)


POLICIES: list[Json] = [
    *({"timeout": value} for value in (0, 30_000_000, 2**63)),
    *({"priority": value} for value in (0, 1, 2, 2**63)),
    {"priority": 1, "timeout": 30_000_000, "r": 2},
    {},
]


async def test_the_schedule_policy(app_client: AppClient, owl: bytes) -> None:
    async with app_client(warmup_tiers=()) as client:
        for parameters in POLICIES:
            response = await infer(client, image_input(owl), parameters=parameters)
            assert "ignored" not in answer_of(response)["parameters"], parameters


async def test_whoever_cannot_wait_gets_504(app_client: AppClient, pngs: list[bytes]) -> None:
    async with app_client() as client:
        for timeout_us in (1, 10):
            for entry in (image_input(pngs[0]), image_input(*pngs)):
                response = await infer(client, entry, parameters={"timeout": timeout_us})
                check_error(response, 504, "not answered within")


async def test_parameters_that_mean_nothing_are_named(app_client: AppClient, owl: bytes) -> None:
    unknown = {"zebra": 1, "top_k": 3, "alpha": "x", "flag": True, "half": 0.5}
    async with app_client(warmup_tiers=()) as client:
        response = await infer(client, image_input(owl), parameters={**unknown, "r": 3})
        ran = answer_of(response)["parameters"]
        assert ran["ignored"].split(",") == sorted(unknown)
        assert ran["r"] == 3
        response = await infer(client, image_input(owl), surplus=[1, {}], parameters={"r": 3})
        assert "ignored" not in answer_of(response)["parameters"]


BAD_PARAMETERS: list[tuple[Json, list[str]]] = [
    ({"r": 3, "tier": "fast"}, ["r and tier"]),
    ({"r": 3, "max_latency_ms": 10}, ["r and max_latency_ms"]),
    ({"tier": "fast", "max_latency_ms": 10}, ["tier and max_latency_ms"]),
    ({"r": 3, "min_tier": "fast"}, ["r and min_tier"]),
    ({"tier": "fast", "min_tier": "exact"}, ["min_tier"]),
    *(({"r": r}, ["r"]) for r in (-1, 9, 2**63, 3.5, "3", True)),
    *(({"tier": tier}, ["tier"]) for tier in ("warp", "", 1)),
    *(({"min_tier": tier}, ["min_tier"]) for tier in ("warp", 1)),
    *(({"method": method}, ["method"]) for method in ("magic", 7)),
    *(({"max_latency_ms": value}, ["max_latency_ms"]) for value in (0, -1, 1e9, "10", True)),
    *(({"timeout": value}, ["timeout"]) for value in (-1, 0.5, "100", True)),
    *(({"priority": value}, ["priority"]) for value in (-1, 0.5, "1", True)),
]


async def test_parameters_out_of_range(app_client: AppClient, owl: bytes) -> None:
    async with app_client(warmup_tiers=()) as client:
        for parameters, fragments in BAD_PARAMETERS:
            response = await infer(client, image_input(owl), parameters=parameters)
            check_error(response, 422, *fragments)


async def test_parameters_that_are_none(app_client: AppClient, owl: bytes) -> None:
    async with app_client(warmup_tiers=()) as client:
        for parameters in ([], 7, {"r": None}, {"r": [3]}, {"a": {"b": 1}}):
            response = await infer(client, image_input(owl), parameters=parameters)
            check_error(response, 400, "parameter")
