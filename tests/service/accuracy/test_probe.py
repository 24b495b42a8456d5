"""Live accuracy is what a plain loop over the pictures finds, and comes out everywhere."""

import asyncio
import csv
import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file, save_file
from torch import Tensor

from service import __main__, tiers
from service.accuracy import counts, probe, probe_set
from service.accuracy.counts import Measured
from service.accuracy.probe_cache import ProbeCache
from service.accuracy.probe_set import Picture
from service.backends.placement import CPU
from service.cache import Cache
from service.errors import ModelLoadError
from service.images.decode import InputSpec, decode
from service.models import catalog
from service.models.served import ServedModel
from service.tiers import TIERS
from tests.conftest import AppClient
from tests.waiting import PATIENCE_S, eventually


class Labelled(NamedTuple):
    """Labelled pictures, and the classes that each tier gives them, best first."""

    folder: Path
    labels: list[int]
    ranked: Mapping[str, list[list[int]]]

    def share(self, tier: str, k: int) -> float:
        right = [
            label in best[:k] for label, best in zip(self.labels, self.ranked[tier], strict=True)
        ]
        return sum(right) / len(right)

    def agreement(self, tier: str) -> float:
        pairs = zip(self.ranked[tier], self.ranked["exact"], strict=True)
        same = [mine[0] == exact[0] for mine, exact in pairs]
        return sum(same) / len(same)


def pixels_of(model: ServedModel, path: Path) -> Tensor:
    return decode(path.read_bytes(), InputSpec(model.transform, model.input_spec.resize_side))


@pytest.fixture(scope="module")
def varied(
    tiny_model: Path, examples: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model, with a head that tells the example photos apart."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("varied") / "tiny")
    weights = load_file(folder / "model.safetensors")
    model = catalog.load(str(tiny_model), CPU)
    module = model.variant("rapid", 0).module
    with torch.inference_mode():
        logits = torch.stack([module(pixels_of(model, path)[None])[0] for path in examples])
    weights["head.bias"] = weights["head.bias"] - logits.mean(dim=0)
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def labelled(
    varied: Path, examples: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Labelled:
    """The example photos; of the labels some are right, some are among the first five."""
    model = catalog.load(str(varied), CPU)
    ranked: dict[str, list[list[int]]] = {}
    for tier in TIERS:
        module = model.variant(*tiers.of_tier(model.limits, tier)).module
        with torch.inference_mode():
            rows = [module(pixels_of(model, path)[None])[0] for path in examples]
        ranked[tier] = [row.argsort(descending=True).tolist() for row in rows]
    labels = [best[(0, 0, 3, 9)[i % 4]] for i, best in enumerate(ranked["exact"])]
    folder = tmp_path_factory.mktemp("labelled")
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "index", "label"])
        for path, label in zip(examples, labels, strict=True):
            shutil.copy(path, folder)
            writer.writerow([path.name, label, f"thing {label}"])
    return Labelled(folder, labels, ranked)


@pytest.fixture(params=[False, True], ids=["floats", "bytes"])
def any_client(app_client: AppClient, request: pytest.FixtureRequest) -> AppClient:
    """The app, with pictures decoded to floats, and with pictures decoded to bytes."""
    if request.param:
        request.getfixturevalue("normalizing")
    return app_client


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def until_probed(client: httpx.AsyncClient) -> dict[str, dict[str, object]]:
    """The tiers, by name, once they are measured."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            (model,) = (await client.get("/v1/models")).json()["models"]
            if all(tier["measured"] for tier in model["tiers"]):
                return {tier["tier"]: tier["measured"] for tier in model["tiers"]}
            await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_the_service_measures_what_a_plain_loop_finds(
    any_client: AppClient, varied: Path, labelled: Labelled
) -> None:
    data = (f"tiny={labelled.folder}",)
    async with any_client(models=(str(varied),), probe_interval_s=3600, probe_data=data) as client:
        found = await until_probed(client)
        metrics = samples((await client.get("/metrics")).text)
    assert labelled.share("exact", 1) == 0.5
    assert labelled.share("exact", 5) == 0.75
    assert labelled.agreement("extreme") < 1
    for tier in TIERS:
        labels = {("model", "tiny"), ("method", "rapid"), ("tier", tier)}
        for k in (1, 5):
            expected = labelled.share(tier, k)
            assert found[tier][f"top{k}"]["value"] == pytest.approx(expected, abs=1e-4)
            key = ("rapid_probe_accuracy_ratio", frozenset({*labels, ("k", str(k))}))
            assert metrics[key] == expected
        agreement = labelled.agreement(tier)
        assert found[tier]["agreement"]["value"] == pytest.approx(agreement, abs=1e-4)
        assert metrics["rapid_probe_agreement_ratio", frozenset(labels)] == agreement
        assert metrics["rapid_probe_samples_total", frozenset(labels)] == len(labelled.labels)
        assert found[tier]["num_pictures"] == len(labelled.labels)
    assert metrics["rapid_probe_interval_seconds", frozenset()] == 3600
    assert ("rapid_images_total", frozenset({("model", "tiny"), ("tier", "exact")})) not in metrics


@pytest.mark.anyio
async def test_without_an_interval_nothing_is_probed(
    app_client: AppClient, labelled: Labelled
) -> None:
    data = (f"tiny={labelled.folder}",)
    async with app_client(probe_interval_s=0, probe_data=data) as client:
        await asyncio.sleep(0.5)
        (model,) = (await client.get("/v1/models")).json()["models"]
        text = (await client.get("/metrics")).text
    assert [tier["measured"] for tier in model["tiers"]] == [None] * len(TIERS)
    assert "rapid_probe_samples_total{" not in text


@pytest.mark.anyio
async def test_a_probe_that_fails_is_made_up_for(
    app_client: AppClient, labelled: Labelled, tmp_path: Path
) -> None:
    folder = shutil.copytree(labelled.folder, tmp_path / "pictures")
    (victim,) = folder.glob("owl.jpg")
    whole = victim.read_bytes()
    victim.write_bytes(whole[:100])
    data = (f"tiny={folder}",)
    async with app_client(probe_interval_s=0.2, probe_data=data) as client:
        await asyncio.sleep(1)
        assert (await client.get("/readyz")).status_code == 200
        (model,) = (await client.get("/v1/models")).json()["models"]
        assert model["tiers"][0]["measured"] is None
        victim.write_bytes(whole)
        found = await until_probed(client)
    assert found["exact"]["num_pictures"] == len(labelled.labels)


@pytest.mark.anyio
async def test_a_baseline_is_published(app_client: AppClient, labelled: Labelled) -> None:
    path = labelled.folder / "baseline.json"
    wanted = {"exact": {"top1": 0.9, "top5": 0.95}}
    path.write_text(json.dumps({"architecture": "x", "num_pictures": 12, "tiers": wanted}))
    data = (f"tiny={labelled.folder}",)
    try:
        async with app_client(probe_interval_s=3600, probe_data=data) as client:
            await until_probed(client)
            metrics = samples((await client.get("/metrics")).text)
    finally:
        path.unlink()
    published = {
        labels: value
        for (name, labels), value in metrics.items()
        if name == "rapid_probe_baseline_accuracy_ratio"
    }
    common = {("model", "tiny"), ("method", "rapid"), ("tier", "exact")}
    assert published == {
        frozenset({*common, ("k", "1")}): 0.9,
        frozenset({*common, ("k", "5")}): 0.95,
    }


# What an earlier process has found.


async def probed_with(
    client: AppClient, model: Path, pictures: Path, cached: Path, interval_s: float = 3600
) -> tuple[dict[str, dict[str, object]], dict[tuple[str, frozenset[tuple[str, str]]], float]]:
    """What a service shows, and its metrics, as soon as it shows anything."""
    settings = {"probe_data": (f"tiny={pictures}",), "cache_dir": str(cached)}
    async with client(models=(str(model),), probe_interval_s=interval_s, **settings) as started:
        found = await until_probed(started)
        if found["exact"]["is_complete"]:
            await asyncio.to_thread(eventually, lambda: any(cached.glob("*.json")))
        return found, samples((await started.get("/metrics")).text)


PROBED = (
    "rapid_probe_samples_total",
    frozenset({("model", "tiny"), ("method", "rapid"), ("tier", "exact")}),
)
LAST_SUCCESS = "rapid_probe_last_success_timestamp_seconds", frozenset({("model", "tiny")})


def make_older(cached: Path, seconds: float) -> None:
    (file,) = cached.iterdir()
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"finished": content["finished"] - seconds}))


@pytest.mark.anyio
async def test_a_restart_shows_what_was_found_before_and_when(
    app_client: AppClient, varied: Path, labelled: Labelled, tmp_path: Path
) -> None:
    before, first = await probed_with(app_client, varied, labelled.folder, tmp_path)
    after, second = await probed_with(app_client, varied, labelled.folder, tmp_path)
    assert first[PROBED] == len(labelled.labels)
    assert second[PROBED] == 0
    assert after == before
    assert after["exact"]["is_complete"]
    accuracy = [key for key in first if key[0] == "rapid_probe_accuracy_ratio"]
    assert len(accuracy) == 2 * len(TIERS)
    assert all(second[key] == first[key] for key in [*accuracy, LAST_SUCCESS])


@pytest.mark.anyio
async def test_an_old_result_is_shown_with_its_time_but_in_no_metric_and_is_renewed(
    app_client: AppClient, varied: Path, labelled: Labelled, tmp_path: Path
) -> None:
    await probed_with(app_client, varied, labelled.folder, tmp_path)
    make_older(tmp_path, 4 * 3600)
    data = (f"tiny={labelled.folder}",)
    async with app_client(
        models=(str(varied),), probe_interval_s=3600, probe_data=data, cache_dir=str(tmp_path)
    ) as client:
        old = (await until_probed(client))["exact"]["measured_at"]
        is_old = True
        while is_old:
            metrics = samples((await client.get("/metrics")).text)
            is_old = (await until_probed(client))["exact"]["measured_at"] == old
            assert not is_old or LAST_SUCCESS not in metrics
        metrics = samples((await client.get("/metrics")).text)
    assert metrics[LAST_SUCCESS] > time.time() - 3600


@pytest.mark.anyio
async def test_the_first_pictures_give_a_first_result_in_no_metric(
    app_client: AppClient,
    varied: Path,
    labelled: Labelled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe_set, "MIN_FIRST", 3)
    monkeypatch.setattr(probe, "REST", math.inf)  # always the longest rest, so that it is seen
    monkeypatch.setattr(probe, "MAX_REST_S", 0.5)
    found, metrics = await probed_with(app_client, varied, labelled.folder, tmp_path)
    assert (found["exact"]["num_pictures"], found["exact"]["is_complete"]) == (3, False)
    assert LAST_SUCCESS not in metrics


def test_the_key_changes_with_all_that_a_result_depends_on(
    tiny_model: Path, varied: Path, labelled: Labelled, tmp_path: Path
) -> None:
    folder = shutil.copytree(labelled.folder, tmp_path / "pictures")
    names = [f"thing {index}" for index in range(10)]

    def key(model: Path = varied, computes: tuple[str, ...] = ("cpu",)) -> str:
        pictures = probe_set.read(folder, names, max_pictures=99)
        return ProbeCache(Cache(), computes).key(catalog.load(str(model), CPU), pictures)

    usual = key()
    assert key() == usual
    others = [key(tiny_model), key(computes=("cpu", "int8"))]
    labels = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(labels.replace(",4,thing 4", ",5,thing 5"))
    others.append(key())
    (folder / "labels.csv").write_text(labels)
    with (folder / "owl.jpg").open("ab") as picture:
        picture.write(b"x")
    others.append(key())
    assert len({usual, *others}) == 5


def kept(**changes: object) -> dict[str, object]:
    """A content as the cache holds it for a probe of twelve pictures."""
    counts = {"num_pictures": 12, "num_top1": 6, "num_top5": 9, "num_agreeing": 11}
    tiers = {tier: counts | changes.pop(tier, {}) for tier in TIERS}  # type: ignore[operator]
    return {"finished": 1.5e9, "seconds": 3.5, "tiers": tiers} | changes


@pytest.mark.parametrize(
    ("content", "is_used"),
    [
        (kept(), True),
        (kept(finished=4e9), False),
        (kept(finished=math.nan), False),
        (kept(finished="today"), False),
        (kept(tiers={}), False),
        (kept(fast={"num_pictures": 11}), False),
        (kept(fast={"num_top1": 10}), False),
        (kept(fast={"num_top5": 13}), False),
        (kept(fast={"num_agreeing": 13}), False),
        (kept(fast={"num_top1": -1}), False),
        (kept(more=1), False),
        ({}, False),
    ],
)
def test_a_content_that_no_probe_can_have_written_is_not_used(
    tmp_path: Path, labelled: Labelled, content: dict[str, object], is_used: bool
) -> None:
    Cache(str(tmp_path)).write("key", content)
    pictures = probe_set.read(labelled.folder, [f"thing {i}" for i in range(10)], max_pictures=99)
    assert (ProbeCache(Cache(str(tmp_path))).read("key", pictures) is not None) == is_used


# What the shadow finds on live traffic.


@pytest.mark.anyio
async def test_answers_are_compared_with_the_unreduced_models(
    any_client: AppClient, varied: Path, labelled: Labelled, examples: list[Path]
) -> None:
    settings = {"shadow_fraction": 1.0, "spare_share": 1.0, "probe_interval_s": 0}
    async with any_client(models=(str(varied),), **settings) as client:
        for tier in ("extreme", "exact"):
            for path in examples:
                url = f"/v1/classify?tier={tier}"
                assert (await client.post(url, content=path.read_bytes())).status_code == 200
        labels = frozenset({("model", "tiny"), ("method", "rapid"), ("tier", "extreme")})
        async with asyncio.timeout(PATIENCE_S):
            while True:
                metrics = samples((await client.get("/metrics")).text)
                dropped = metrics["rapid_shadow_dropped_total", frozenset()]
                compared = metrics.get(("rapid_shadow_samples_total", labels), 0)
                if compared + dropped == len(examples):
                    break
                await asyncio.sleep(0.01)
    assert dropped == 0
    agreeing = metrics["rapid_shadow_agreement_total", labels]
    assert agreeing / compared == labelled.agreement("extreme")
    tiers_seen = {dict(labels)["tier"] for name, labels in metrics if "shadow_samples" in name}
    assert tiers_seen == {"extreme"}  # of `exact` there is nothing to learn


@pytest.mark.anyio
async def test_what_finds_no_spare_time_is_dropped_and_counted(
    app_client: AppClient, owl: bytes
) -> None:
    async with app_client(shadow_fraction=1.0, spare_share=1e-6, probe_interval_s=0) as client:
        for _ in range(20):
            await client.post("/v1/classify?tier=fast", content=owl)
        metrics = samples((await client.get("/metrics")).text)
    num_kept = 20 - metrics["rapid_shadow_dropped_total", frozenset()]
    assert 8 <= num_kept <= 10  # those that wait, the one that is waited for, the one done before


@pytest.mark.anyio
async def test_by_default_no_answer_is_compared(app_client: AppClient, owl: bytes) -> None:
    async with app_client(probe_interval_s=0) as client:
        for _ in range(5):
            await client.post("/v1/classify?tier=fast", content=owl)
        metrics = samples((await client.get("/metrics")).text)
    assert metrics["rapid_batch_dispatch_total", frozenset({("reason", "spare")})] == 0
    assert metrics["rapid_shadow_dropped_total", frozenset()] == 0


# The list of pictures.

LABELS = ("cat", "dog", "owl")


def written(folder: Path, text: str, names: str = "abcdefgh") -> Path:
    (folder / "labels.csv").write_text(text)
    for name in names:
        (folder / f"{name}.jpg").write_bytes(b"")
    return folder


def test_pictures_are_listed_by_index_or_label(tmp_path: Path) -> None:
    by_index = written(tmp_path, "file,index\na.jpg,2\nb.jpg,0\n")
    read = probe_set.read(by_index, LABELS, max_pictures=9)
    assert read.pictures == ((tmp_path / "a.jpg", 2), (tmp_path / "b.jpg", 0))
    assert read.baseline is None
    by_label = written(tmp_path, "label,file\nowl,a.jpg\ncat,b.jpg\n")
    assert probe_set.read(by_label, LABELS, max_pictures=9).pictures == read.pictures


@pytest.mark.parametrize(
    ("limit", "names"), [(9, "abcdefgh"), (8, "abcdefgh"), (4, "aceg"), (3, "adg"), (1, "a")]
)
def test_of_too_many_pictures_evenly_spaced_ones_are_taken(
    tmp_path: Path, limit: int, names: str
) -> None:
    lines = "".join(f"{name}.jpg,0\n" for name in "abcdefgh")
    folder = written(tmp_path, f"file,index\n{lines}")
    pictures = probe_set.read(folder, LABELS, max_pictures=limit).pictures
    assert [picture.path.stem for picture in pictures] == list(names)


def test_the_first_part_has_every_class_in_its_share(tmp_path: Path) -> None:
    many = [Picture(tmp_path / f"{number}.jpg", number * 7 % 4) for number in range(400)]
    first, rest = probe_set.in_parts(many)
    assert len(first) == 40
    assert sorted([*first, *rest]) == sorted(many)
    assert [sum(one.label == label for one in first) for label in range(4)] == [10] * 4
    assert probe_set.in_parts(many[:63]) == ([], many[:63])
    assert len(probe_set.in_parts(many[:64])[0]) == 32


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lists no pictures"),
        ("file,index\n", "lists no pictures"),
        ("file,index\na.jpg,3\n", "line 2: index '3' is out of range; .*0 ... 2"),
        ("file,index\na.jpg,-1\n", "out of range"),
        ("file,label\na.jpg,cat\nb.jpg,cow\n", "line 3: the model has no label 'cow'"),
        ("file,index\nmissing.jpg,0\n", "no picture 'missing.jpg'"),
        ("name,index\na.jpg,0\n", "no picture None"),
        ("file\na.jpg\n", "no label None"),
        (f"file,index\na.jpg,{'9' * 5000}\n", "out of range"),
        ('file,label\na.jpg,"ca\nt"\n', r"no label 'ca\\nt'"),
        ("file,index\n/etc/passwd,0\n", "line 2: '/etc/passwd' leads out of the folder"),
        ("file,index\n../a.jpg,0\n", "leads out of the folder"),
        ("file,index\nb/../../a.jpg,0\n", "leads out of the folder"),
        ("file,index\na\0.jpg,0\n", "no picture"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        probe_set.read(written(tmp_path, text), LABELS, max_pictures=9)


@pytest.mark.parametrize("name", ["labels.csv", "baseline.json", "a.jpg", "b/a.jpg"])
def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder, outside = tmp_path / "probe", tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    table = "file,index\na.jpg,0\nb/a.jpg,0\n"
    baseline = '{"architecture": "x", "num_pictures": 2, "tiers": {}}'
    for file, text in {"labels.csv": table, "baseline.json": baseline, "b/a.jpg": ""}.items():
        (outside / file).write_text(text)
    (outside / "a.jpg").touch()
    shutil.copytree(outside, folder)
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be one, as it is named by people
    assert len(probe_set.read(tmp_path / "link", LABELS, max_pictures=9).pictures) == 2
    (folder / name).unlink()
    (folder / name).symlink_to(outside / name)
    with pytest.raises(ModelLoadError, match=f"'{name}' leads out of the folder"):
        probe_set.read(folder, LABELS, max_pictures=9)


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    """As a volume of Kubernetes has them: each file is a link into a hidden folder."""
    (tmp_path / "..2025").mkdir()
    written(tmp_path / "..2025", "file,index\na.jpg,0\n")
    (tmp_path / "..data").symlink_to("..2025")
    for name in ("labels.csv", "a.jpg"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    assert len(probe_set.read(tmp_path, LABELS, max_pictures=9).pictures) == 1


def test_a_missing_list_or_a_broken_baseline_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"labels\.csv"):
        probe_set.read(tmp_path, LABELS, max_pictures=9)
    folder = written(tmp_path, "file,index\na.jpg,0\n")
    (folder / "baseline.json").write_text('{"tiers": {"exact": {"top1": 2}}}')
    with pytest.raises(ModelLoadError, match=r"baseline\.json"):
        probe_set.read(folder, LABELS, max_pictures=9)


# Shares and their intervals.


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),  # R's binom.confint(8, 10, method = "wilson")
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_intervals_are_wilsons(count: int, total: int, low: float, high: float) -> None:
    share = counts.share(count, total)
    assert share == pytest.approx((count / total, low, high), abs=1e-4)


def test_both_ends_of_an_interval_solve_wilsons_equation() -> None:
    for total in (1, 7, 334):
        for count in range(total + 1):
            value, low, high = counts.share(count, total)
            assert 0 <= low <= value <= high <= 1
            for end in (low, high):
                if 0 < end < 1:
                    deviation = math.sqrt(end * (1 - end) / total)
                    assert abs(value - end) == pytest.approx(counts.Z * deviation)


def test_models_with_fewer_than_five_classes_are_counted_too() -> None:
    counts = Measured()
    counts.add(torch.tensor([0.1, 0.9, 0.5]), label=0, unreduced=torch.tensor([0.0, 0.2, 0.1]))
    assert (counts.top1.value, counts.top5.value, counts.agreement.value) == (0, 1, 1)


# The command line.


def test_the_command_gives_table_csv_picture_and_baseline(
    varied: Path, labelled: Labelled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(labelled.folder, tmp_path / "pictures")
    files = ["--csv", str(tmp_path / "rows.csv"), "--png", str(tmp_path / "plot.png")]
    chosen = ["--model", str(varied), "--data", str(folder), "--tiers", "extreme,exact"]
    assert __main__.main(["probe", *chosen, *files, "--baseline", "--batch-size", "5"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[:3]] == ["tier", "exact", "extreme"]
    assert "50.0 (" in printed[1]
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["tier"] for row in rows] == ["exact", "extreme"]
    for row in rows:
        assert float(row["top1"]) == pytest.approx(labelled.share(row["tier"], 1), abs=1e-4)
        assert float(row["top5"]) == pytest.approx(labelled.share(row["tier"], 5), abs=1e-4)
        assert float(row["agreement"]) == pytest.approx(labelled.agreement(row["tier"]), abs=1e-4)
        assert float(row["top1_low"]) < float(row["top1"]) < float(row["top1_high"])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    baseline = probe_set.read(folder, [f"thing {i}" for i in range(10)], max_pictures=9).baseline
    assert baseline is not None
    assert baseline.tiers["exact"].top1 == 0.5


def test_the_command_says_what_is_wrong(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["probe", "--model", str(tiny_model)]) == 1
    assert "name some with --data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        __main__.main(["probe", "--tiers", "exact,slow"])
    assert "'slow' is not a tier; allowed: exact, high" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        __main__.main(["probe", "--batch-size", "0"])
    assert "'0' is not a number from 1 on" in capsys.readouterr().err
