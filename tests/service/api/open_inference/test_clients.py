"""The real server under /v2, asked by the clients that people have: Triton's and KServe's."""

import asyncio
import base64
import io
import itertools
import random
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import kserve
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from kserve.protocol.infer_type import RequestedOutput
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException

from service.models.timm_models import create_transform, timm
from tests.conftest import BUNDLED, Server
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

MODEL = "everyday-vit-s14"
K = 334
PATIENT = {"timeout": 300_000_000}  # microseconds: the machine may be busy
Json = dict[str, Any]
Array = NDArray[Any]


@pytest.fixture(scope="module")
def pngs(examples: list[Path]) -> list[bytes]:
    """Three example photos in 320 x 240, without loss."""
    files = [io.BytesIO() for _ in range(3)]
    for path, file in zip(examples, files, strict=False):
        with Image.open(path) as image:
            image.resize((320, 240)).save(file, "PNG")
    return [file.getvalue() for file in files]


@pytest.fixture(scope="module")
def pixels(pngs: list[bytes]) -> Array:
    """The same photos as the bundled model wants them: (3, 3, 224, 224)."""
    model = timm.create_model(f"local-dir:{BUNDLED}")
    transform = create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return np.stack([transform(Image.open(io.BytesIO(png))).numpy() for png in pngs])


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    """Triton's client; it wants an address without the scheme."""
    with triton.InferenceServerClient(address(server), network_timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
async def aio_client(server: Server) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with triton_aio.InferenceServerClient(address(server), conn_timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
async def kserve_client() -> AsyncIterator[kserve.InferenceRESTClient]:
    config = kserve.RESTConfig(protocol="v2", timeout=PATIENCE_S)
    async with kserve.InferenceRESTClient(config) as client:
        yield client


def address(server: Server) -> str:
    return server.url.removeprefix("http://")


def image_input(*files: bytes, binary_data: bool = True) -> triton.InferInput:
    entry = triton.InferInput("image", [len(files)], "BYTES")
    if not binary_data:
        files = tuple(base64.b64encode(file) for file in files)
    return entry.set_data_from_numpy(np.array(files, dtype=np.object_), binary_data)


def pixel_input(pixels: Array, *, binary_data: bool = True) -> triton.InferInput:
    entry = triton.InferInput("pixel_values", list(pixels.shape), "FP32")
    return entry.set_data_from_numpy(pixels, binary_data)


def check_outputs(result: triton.InferResult, num_images: int) -> tuple[Array, Array]:
    """Logits and probabilities (B, K), which belong together."""
    logits, probabilities = result.as_numpy("logits"), result.as_numpy("probabilities")
    assert logits.shape == probabilities.shape == (num_images, K)
    assert logits.dtype == probabilities.dtype == np.float32
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, exp / exp.sum(axis=1, keepdims=True), atol=1e-6)
    return logits, probabilities


async def native(server: Server, file: bytes, **params: object) -> Array:
    """The probabilities (K,) that POST /v1/classify gives."""
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
        return await ask_natively(client, file, **params)


async def ask_natively(client: httpx.AsyncClient, file: bytes, **params: object) -> Array:
    params = {"top_k": K, "deadline_ms": 300_000, **params}
    response = await client.post("/v1/classify", content=file, params=params)
    assert response.status_code == 200, response.text
    found = np.zeros(K)
    for item in response.json()["predictions"]:
        found[item["index"]] = item["probability"]
    return found


# tritonclient


def test_triton_reads_the_documents(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("other")
    server = client.get_server_metadata()
    assert (server["name"], server["version"]) == ("rapid-vit", version("rapid-vit"))
    metadata = client.get_model_metadata(MODEL)
    assert metadata == client.get_model_metadata(MODEL, "1")
    assert {entry["name"]: entry["shape"] for entry in metadata["inputs"]} == {
        "image": [-1],
        "pixel_values": [-1, 3, 224, 224],
    }
    assert {entry["name"]: entry["shape"] for entry in metadata["outputs"]} == {
        "logits": [-1, K],
        "probabilities": [-1, K],
    }
    config = client.get_model_config(MODEL)
    assert (config["name"], config["max_batch_size"]) == (MODEL, 16)
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_metadata("other")
    assert caught.value.status() == "404"
    assert MODEL in caught.value.message()


def test_triton_reads_the_statistics(client: triton.InferenceServerClient, owl: bytes) -> None:
    (before,) = client.get_inference_statistics(MODEL)["model_stats"]
    client.infer(MODEL, [image_input(owl, owl, owl)], **PATIENT)
    (after,) = client.get_inference_statistics(MODEL, "1")["model_stats"]
    assert client.get_inference_statistics()["model_stats"] == [after]
    assert after["inference_count"] - before["inference_count"] == 3
    assert 1 <= after["execution_count"] - before["execution_count"] <= 3
    num_succeeded = [entry["inference_stats"]["success"]["count"] for entry in (before, after)]
    assert num_succeeded[1] - num_succeeded[0] == 3
    batches = after["batch_stats"]
    counts = [batch["compute_infer"]["count"] for batch in batches]
    sizes = [batch["batch_size"] for batch in batches]
    assert sum(counts) == after["execution_count"]
    assert np.dot(sizes, counts) == after["inference_count"]


@pytest.mark.parametrize("is_binary", list(itertools.product((True, False), repeat=2)))
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
async def test_triton_gets_the_native_answers(
    server: Server,
    client: triton.InferenceServerClient,
    pngs: list[bytes],
    is_binary: tuple[bool, bool],
    compression: str | None,
) -> None:
    binary_input, binary_output = is_binary
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary_output)
        for name in ("probabilities", "logits")
    ]
    result = client.infer(
        MODEL,
        [image_input(*pngs, binary_data=binary_input)],
        outputs=outputs,
        request_id="the first",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
        parameters={"r": 14},
        **PATIENT,
    )
    answer = result.get_response()
    assert (answer["id"], answer["model_name"]) == ("the first", MODEL)
    assert [output["name"] for output in answer["outputs"]] == ["probabilities", "logits"]
    assert all(("data" in output) != binary_output for output in answer["outputs"])
    assert answer["parameters"]["r"] == 14
    assert "ignored" not in answer["parameters"]
    _, probabilities = check_outputs(result, 3)
    wanted = [await native(server, png, r=14) for png in pngs]
    np.testing.assert_allclose(probabilities, wanted, atol=1e-4)


@pytest.mark.parametrize("binary_data", [True, False])
def test_triton_sends_pixels(
    client: triton.InferenceServerClient, pngs: list[bytes], pixels: Array, binary_data: bool
) -> None:
    chosen: Json = {"parameters": {"r": 8, "method": "tome"}, **PATIENT}
    of_files = client.infer(MODEL, [image_input(*pngs)], **chosen)
    of_pixels = client.infer(MODEL, [pixel_input(pixels, binary_data=binary_data)], **chosen)
    assert of_pixels.get_response()["parameters"]["method"] == "tome"
    for mine, wanted in zip(check_outputs(of_pixels, 3), check_outputs(of_files, 3), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-3)


@pytest.mark.parametrize("binary_data", [True, False])
def test_triton_asks_for_classes(
    client: triton.InferenceServerClient, owl: bytes, pngs: list[bytes], binary_data: bool
) -> None:
    outputs = [
        triton.InferRequestedOutput("probabilities", binary_data=binary_data, class_count=3),
        triton.InferRequestedOutput("logits", binary_data=binary_data),
    ]
    result = client.infer(MODEL, [image_input(owl, pngs[0])], outputs=outputs, **PATIENT)
    classes = result.as_numpy("probabilities")
    assert classes.shape == (2, 3)
    best = result.as_numpy("logits").argsort(axis=1)[:, ::-1]
    for row, indices in zip(classes, best, strict=True):
        entries = [text.decode() if isinstance(text, bytes) else text for text in row]
        assert [int(entry.split(":")[1]) for entry in entries] == indices[:3].tolist()
    first = classes[0, 0]
    value, _, label = (first.decode() if isinstance(first, bytes) else first).split(":")
    assert label == "owl"
    assert 0.5 < float(value) <= 1


def test_triton_chooses_by_parameters(client: triton.InferenceServerClient, owl: bytes) -> None:
    def ran(**arguments: object) -> Json:
        found: Json = client.infer(MODEL, [image_input(owl)], **{**PATIENT, **arguments})
        parameters: Json = found.get_response()["parameters"]
        return parameters

    assert ran()["reason"] == "default"
    assert ran(parameters={"tier": "fast"})["tier"] == "fast"
    assert ran(parameters={"r": 8})["r"] == 8
    assert ran(parameters={"r": 8}, priority=1, model_version="1")["r"] == 8
    assert ran(parameters={"max_latency_ms": 3_600_000})["tier"] == "exact"
    assert ran(parameters={"min_tier": "exact"})["tier"] == "exact"
    assert ran(parameters={"colour": "red"}, sequence_id=7)["ignored"].split(",") == [
        *("colour", "sequence_end", "sequence_id", "sequence_start"),
    ]


def test_triton_says_what_we_say(client: triton.InferenceServerClient, owl: bytes) -> None:
    def refused(*inputs: triton.InferInput, name: str = MODEL, **arguments: object) -> str:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(name, list(inputs), **arguments)
        return f"{caught.value.status()} {caught.value.message()}"

    entry = image_input(owl)
    assert refused(entry, timeout=1).startswith("504 not answered within")
    assert refused(entry, parameters={"r": 8, "tier": "fast"}).startswith("422 r and tier")
    assert refused(entry, parameters={"r": 129}).startswith("422 r = 129")
    assert refused(entry, name="other").startswith("404 ")
    assert refused(entry, model_version="2").startswith("404 ")
    assert refused(image_input(owl, b"\xff")).startswith("400 image 1: ")
    assert refused(image_input(*[owl] * 17)).startswith("413 input 'image': more than 16 elements")
    assert refused(pixel_input(np.zeros((1, 3, 32, 32), np.float32))).startswith("400 input")
    assert refused(pixel_input(np.full((1, 3, 224, 224), np.nan, np.float32))).startswith("400 ")
    outputs = [triton.InferRequestedOutput("logit")]
    assert "logits, probabilities" in refused(entry, outputs=outputs)
    assert client.infer(MODEL, [entry], **PATIENT).as_numpy("logits").shape == (1, K)


def test_triton_asks_many_at_once_from_one_thread(server: Server, examples: list[Path]) -> None:
    photos = [path.read_bytes() for path in examples[:4]]
    with triton.InferenceServerClient(
        address(server), concurrency=16, network_timeout=PATIENCE_S
    ) as client:
        asked = [
            (photo, r, client.async_infer(MODEL, [image_input(photo)], parameters={"r": r}))
            for photo, r in itertools.product(photos, (0, 8, 14, 20))
        ]
        for photo, r, pending in asked:
            logits, _ = check_outputs(pending.get_result(timeout=PATIENCE_S), 1)
            alone = client.infer(MODEL, [image_input(photo)], parameters={"r": r}, **PATIENT)
            np.testing.assert_allclose(logits, alone.as_numpy("logits"), atol=1e-3)


async def test_triton_with_asyncio(
    aio_client: triton_aio.InferenceServerClient, server: Server, owl: bytes, pixels: Array
) -> None:
    assert await aio_client.is_server_live()
    assert await aio_client.is_server_ready()
    assert await aio_client.is_model_ready(MODEL)
    assert (await aio_client.get_server_metadata())["name"] == "rapid-vit"
    assert (await aio_client.get_model_metadata(MODEL))["name"] == MODEL
    assert (await aio_client.get_model_config(MODEL))["max_batch_size"] == 16
    assert (await aio_client.get_inference_statistics(MODEL))["model_stats"][0]["name"] == MODEL
    wanted = await native(server, owl, r=14)
    for binary_data, compression in itertools.product((True, False), (None, "gzip", "deflate")):
        result = await aio_client.infer(
            MODEL,
            [image_input(owl, binary_data=binary_data)],
            request_compression_algorithm=compression,
            parameters={"r": 14},
            **PATIENT,
        )
        _, probabilities = check_outputs(result, 1)
        np.testing.assert_allclose(probabilities[0], wanted, atol=1e-4)
    check_outputs(await aio_client.infer(MODEL, [pixel_input(pixels[:1])], **PATIENT), 1)
    with pytest.raises(InferenceServerException, match="r = 129"):
        await aio_client.infer(MODEL, [image_input(owl)], parameters={"r": 129})


# kserve


async def test_kserve_asks_for_health(
    kserve_client: kserve.InferenceRESTClient, server: Server
) -> None:
    for url in (server.url, f"{server.url}/"):
        assert await kserve_client.is_server_live(url) is True
        assert await kserve_client.is_server_ready(url) is True
        assert await kserve_client.is_model_ready(url, MODEL) is True
        assert await kserve_client.is_model_ready(url, "other") is False


def kserve_request(
    name: str, data: Array, *, binary_data: bool, **members: object
) -> kserve.InferRequest:
    datatype = "FP32" if data.dtype == np.float32 else "BYTES"
    entry = kserve.InferInput(name, list(data.shape), datatype)
    entry.set_data_from_numpy(data, binary_data)
    return kserve.InferRequest(MODEL, [entry], **members)


@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("binary_data", [True, False])
async def test_kserve_gets_the_native_answers(
    kserve_client: kserve.InferenceRESTClient,
    server: Server,
    pngs: list[bytes],
    binary_data: bool,
    binary_output: bool,
) -> None:
    files = pngs if binary_data else [base64.b64encode(png) for png in pngs]
    request = kserve_request(
        "image",
        np.array(files, dtype=np.object_),
        binary_data=binary_data,
        request_id="the second",
        parameters={"r": 14, "binary_data_output": binary_output, **PATIENT},
    )
    response = await kserve_client.infer(server.url, request, model_name=MODEL)
    assert (response.id, response.model_name) == ("the second", MODEL)
    assert response.parameters["r"] == 14
    assert [output.name for output in response.outputs] == ["logits", "probabilities"]
    probabilities = response.get_output_by_name("probabilities").as_numpy()
    assert probabilities.shape == (3, K)
    wanted = [await native(server, png, r=14) for png in pngs]
    np.testing.assert_allclose(probabilities, wanted, atol=1e-4)


@pytest.mark.parametrize("binary_data", [True, False])
async def test_kserve_sends_pixels(
    kserve_client: kserve.InferenceRESTClient,
    server: Server,
    pngs: list[bytes],
    pixels: Array,
    binary_data: bool,
) -> None:
    request = kserve_request(
        "pixel_values",
        pixels,
        binary_data=binary_data,
        parameters={"r": 14, **PATIENT},
        request_outputs=[RequestedOutput("probabilities", {"binary_data": True})],
    )
    response = await kserve_client.infer(server.url, request, model_name=MODEL)
    (output,) = response.outputs
    wanted = [await native(server, png, r=14) for png in pngs]
    np.testing.assert_allclose(output.as_numpy(), wanted, atol=1e-4)


async def test_kserve_says_what_we_say(
    kserve_client: kserve.InferenceRESTClient, server: Server, owl: bytes
) -> None:
    data = np.array([owl, b"\xff"], dtype=np.object_)
    broken = kserve_request("image", data, binary_data=True)
    wrong = kserve_request("image", data[:1], binary_data=True, parameters={"r": 129})
    for request, name, text in (
        (broken, MODEL, "image 1: this is not an image of a known format"),
        (wrong, MODEL, "r = 129 is out of range"),
        (wrong, "other", MODEL),
    ):
        with pytest.raises(httpx.HTTPStatusError, match=text):
            await kserve_client.infer(server.url, request, model_name=name)


# curl, and everybody at once


async def test_curl_sends_a_bare_file(server: Server, owl: bytes) -> None:
    url = f"{server.url}/v2/models/{MODEL}/infer"
    zero = ["-H", "Inference-Header-Content-Length: 0"]
    program = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-i", *zero, "--data-binary", "@-", url), stdin=PIPE, stdout=PIPE
    )
    printed, _ = await program.communicate(owl)
    head, _, body = printed.partition(b"\r\n\r\n")
    fields = httpx.Headers([line.split(b": ", 1) for line in head.split(b"\r\n")[1:]])
    assert head.startswith(b"HTTP/1.1 200 ")
    result = triton.InferenceServerClient.parse_response_body(
        body, header_length=int(fields["inference-header-content-length"])
    )
    _, probabilities = check_outputs(result, 1)
    np.testing.assert_allclose(probabilities[0], await native(server, owl), atol=1e-4)


async def test_64_clients_at_once_each_get_their_single_answer(
    aio_client: triton_aio.InferenceServerClient, server: Server, examples: list[Path]
) -> None:
    photos = [path.read_bytes() for path in examples[:4]]
    pairs = list(itertools.product(photos, (0, 8, 14, 32)))
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S, limits=limits) as http:

        async def through_triton(photo: bytes, r: int) -> tuple[Array, Array]:
            entry = [image_input(photo)]
            result = await aio_client.infer(MODEL, entry, parameters={"r": r}, **PATIENT)
            assert result.get_response()["parameters"]["r"] == r
            logits, probabilities = check_outputs(result, 1)
            return logits[0], probabilities[0]

        alone = {pair: await through_triton(*pair) for pair in pairs}
        mixed = list(itertools.islice(itertools.cycle(pairs), 64))
        random.Random(0).shuffle(mixed)
        through, natively = await asyncio.gather(
            asyncio.gather(*(through_triton(*pair) for pair in mixed[:32])),
            asyncio.gather(*(ask_natively(http, photo, r=r) for photo, r in mixed[32:])),
        )
    for pair, (logits, probabilities) in zip(mixed[:32], through, strict=True):
        np.testing.assert_allclose(logits, alone[pair][0], atol=1e-3)
        np.testing.assert_allclose(probabilities, alone[pair][1], atol=1e-3)
    for pair, probabilities in zip(mixed[32:], natively, strict=True):
        np.testing.assert_allclose(probabilities, alone[pair][1], atol=1e-3)
