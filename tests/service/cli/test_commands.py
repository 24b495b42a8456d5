"""`rapid`: what it says about itself, about a mistake, and how fast it says so."""

import gc
import json
import os
import re
import subprocess
import sys
from contextlib import suppress

import pytest

from service.__main__ import main
from service.cli.commands import app
from service.cli.serve import collecting_later
from service.errors import SettingsError
from service.settings import Settings
from service.settings.names import flag

HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "fastapi", "uvicorn", "matplotlib"}
COMMANDS = [command.callback for command in app.registered_commands if command.callback]

WHAT_IS_IMPORTED = """
import json, sys
from service.__main__ import main
try:
    main(json.loads(sys.argv[1]))
finally:
    json.dump(sorted(sys.modules), sys.stderr)
"""


def rapid(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, on a wide terminal without colours."""
    clean = {name: value for name, value in os.environ.items() if name[:6] != "RAPID_"}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env={**clean, "COLUMNS": "600", "_TYPER_FORCE_DISABLE_TERMINAL": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that is said about a misused command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return only_line(capsys)


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error, without its beginning."""
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err), err
    return err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        *([str(command.__name__), "--help"] for command in COMMANDS),
        ["serve", "--prot", "1"],
        ["serve", "--port", "web"],
        ["probe", "--tiers", "exact,slow"],
        ["probe", "--csv", "nowhere/at/all.csv"],
        ["probe", "--data", "nowhere"],
        ["probe", "--device", "tpu"],
        ["calibrate"],
        ["calibrate", "--images", "."],
    ],
    ids=" ".join,
)
def test_help_and_mistakes_do_not_wait_for_pytorch(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHAT_IS_IMPORTED, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    imported = set(json.loads(re.findall(r"\[.*\]", done.stderr)[-1]))
    assert "service.cli.commands" in imported
    assert HEAVY & imported == set()


def test_help_names_every_command() -> None:
    done = rapid("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"│ {command.__name__} " in done.stdout
    assert {command.__name__ for command in COMMANDS} >= {"serve", "probe", "calibrate"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_every_help_has_two_examples_whose_options_exist(
    command: type, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = re.findall(rf"^ *rapid ({command.__name__} .*)$", str(command.__doc__), re.M)
    assert len(examples) == 2
    for example in examples:
        assert main([*example.split(), "--help"]) == 0
        assert "Examples:" in capsys.readouterr().out


def test_every_setting_is_a_flag_with_its_description_and_default() -> None:
    lines = {
        line.split()[1]: line
        for line in rapid("serve", "--help").stdout.splitlines()
        if "--" in line
    }
    for name, field in Settings.model_fields.items():
        line = lines[flag(name)]
        assert str(field.description).replace("`", "") in line
        default = field.default
        text = ", ".join(default) if isinstance(default, tuple) else str(default)
        assert f"default: {text or 'none'}]" in line
    assert "[from 0 to 65535; default: 8000]" in lines["--port"]
    assert "[above 0 to 3600; default: 20]" in lines["--receive-timeout-s"]
    assert "[one of pillow, torch; default: pillow]" in lines["--resize"]


def test_no_flag_takes_a_key_itself() -> None:
    assert [name for name in Settings.model_fields if "key" in name or "secret" in name] == [
        "api_keys_file",
        "max_requests_per_key",
        "max_images_per_key",
    ]


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("--max-batchsize", "--max-batch-size"),
        ("--max-batchsize=4", "--max-batch-size"),
        ("--model", "--models"),
        ("--prot", "--port"),
        ("--default-teir", "--default-tier"),
        ("--verison", "--version"),
    ],
)
@pytest.mark.parametrize("command", [["serve"], []])
def test_a_misspelt_flag_names_the_nearest(
    command: list[str], given: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, *command, given, "4")
    assert said == f"{given.removesuffix('=4')} is not a setting; did you mean {nearest}?"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sevre"], "No such command 'sevre'. Did you mean 'serve'?"),
        (["probe", "--dat", "x"], "--dat is not an option of rapid probe; did you mean --data?"),
        (["serve", "--port"], "Option '--port' requires an argument."),
        (["probe", "--backend", "tpu"], "is not one of 'auto', 'torch', 'onednn', 'openvino'"),
        (["probe", "--device", "tpu"], "'tpu' is not auto, cpu, cuda"),
        (["probe", "--csv", "no/such/rows.csv"], "there is no folder 'no/such'"),
        (["probe", "--data", "nowhere"], "'nowhere' does not exist"),
        (["calibrate", "some-model"], "--images"),
    ],
    ids=str,
)
def test_a_mistake_is_said_in_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "70000"], ("--port: ", "65535", "'70000'")),
        (["--port", "many"], ("--port: ", "integer", "'many'")),
        (["--max-batch-size", "0"], ("--max-batch-size: ", "1", "'0'")),
        (["--default-tier", "fastest"], ("--default-tier: ", "'balanced'", "'fastest'")),
        (["--warmup-tiers", "exact,fastest"], ("--warmup-tiers: ", "'turbo'", "'fastest'")),
        (["--models", " , "], ("--models: ", "at least 1")),
        (["--device", "tpu"], ("--device: ", "cuda", "'tpu'")),
        (["--max-requests-per-key", "2"], ("--max-requests-per-key: ", "RAPID_API_KEYS_FILE")),
    ],
    ids=str,
)
def test_a_wrong_value_is_said_with_its_flag_and_what_is_allowed(
    arguments: list[str], says: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == 2
    said = only_line(capsys)
    assert [part for part in says if part not in said] == []


def test_a_wrong_variable_is_said_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAPID_PORT", "web")
    assert main(["serve", "--max-batch-size", "0"]) == 2
    first, second = only_line(capsys).split("; ")
    assert first.startswith("RAPID_PORT: ")
    assert second.startswith("--max-batch-size: ")


@pytest.mark.parametrize("command", [["serve"], []])
def test_a_flag_beats_its_variable(command: list[str]) -> None:
    flags = [*command, "--host", "of.the.flag.invalid"]
    done = rapid(*flags, RAPID_HOST="of.the.variable.invalid", RAPID_PORT="4711")
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot listen on RAPID_HOST=of.the.flag.invalid ")
    assert "RAPID_PORT=4711" in done.stderr


def test_a_picture_is_refused_before_the_work_where_nothing_can_draw(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    assert "needs matplotlib" in refusal(capsys, "probe", "--png", "plot.png")


@pytest.mark.parametrize(
    "arguments",
    [["serve", "--port", "0"], ["probe"], ["calibrate", "everyday-vit-s14", "--images", "."]],
    ids=lambda arguments: arguments[0],
)
def test_a_gpu_that_is_not_there_is_said_before_anything_is_loaded(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--device", "cuda:99"]) == 2
    assert only_line(capsys).startswith("there is no device cuda:99; PyTorch sees ")


def test_the_garbage_collector_waits_for_imports_only() -> None:
    with collecting_later():
        assert not gc.isenabled()
    assert gc.isenabled()
    with suppress(SettingsError), collecting_later():
        raise SettingsError("the port is taken")
    assert gc.isenabled()
