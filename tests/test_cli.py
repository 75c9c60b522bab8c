"""The commands as their users meet them: in a process, with an exit code and plain words."""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hummingbird_edge.runtime.bundle.bundle import BUILTIN
from tests.conftest import command_line

Command = Callable[..., "subprocess.CompletedProcess[str]"]

SMALL = ("--size", "64x64", "--frames", "4", "--steps", "2", "--device", "cpu")


def frames(folder: Path) -> "list[np.ndarray[Any, Any]]":
    found = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            found.append(np.asarray(image))
    return found


def assert_refused(
    done: "subprocess.CompletedProcess[str]", status: int, name: str, message: str
) -> None:
    """Hold a failure to one line on stderr that begins with the command's name."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(rf"{name}: [^\n]*\n", done.stderr), done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hb-run", "--help"), ["--output", "--bundle", "--seed", "--info"]),
        (("hb-export", "--help"), ["build", "inspect"]),
        (("hb-export", "build", "--help"), ["--preset", "--random-weights", "--opset"]),
        (("hb-export", "inspect", "--help"), ["--json"]),
        (("hb-distill", "--help"), ["teacher", "prune", "matching", "consistency", "lora"]),
    ],
)
def test_help(hb: Command, arguments: tuple[str, ...], words: list[str]) -> None:
    done = hb(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(word in done.stdout for word in words)


@pytest.mark.parametrize("command", ["hb-run", "hb-export", "hb-distill"])
def test_version(hb: Command, command: str) -> None:
    done = hb(command, "--version")
    expected = importlib.metadata.version("hummingbird-edge")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}\n", "")


def test_a_video_is_made(hb: Command, nano_bundle: Path, tmp_path: Path) -> None:
    done = hb("hb-run", "a red cat", "--bundle", nano_bundle, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path, timings = done.stdout.splitlines()
    assert path == "out.mp4"
    assert re.fullmatch(
        r"load \S+ s, text \S+ s, U-Net 2 x \S+ s, VAE \S+ s, total \S+ s(, \S+ J)?", timings
    )
    promised, *told = done.stderr.splitlines()
    assert promised.startswith("about ")
    assert "on cpu fp32: text" in promised
    assert told == ["text_encoder 1/1 on cpu", "unet 2/2 on cpu", "vae_decoder 4/4 on cpu"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes()[4:8] == b"ftyp"


def test_info_tells_how_to_make_the_same_again(
    hb: Command, nano_bundle: Path, tmp_path: Path
) -> None:
    prompt = "a 'red' cat; $(touch no) & <b>"
    guided = ("--guidance", "5.5", "--fps", "12", "--seed", "11")
    out = tmp_path / "first"
    done = hb("hb-run", prompt, "-o", out, "--bundle", nano_bundle, *SMALL, *guided)
    assert done.returncode == 0, done.stderr

    told = hb("hb-run", "--info", out, "--json")
    assert told.returncode == 0, told.stderr
    settings = json.loads(told.stdout)
    assert (
        settings.items()
        >= {
            "prompt": prompt,
            "frames": 4,
            "width": 64,
            "height": 64,
            "steps": 2,
            "guidance": 5.5,
            "fps": 12,
            "seed": 11,
            "model": "nano_07b_merged_all",
        }.items()
    )

    told = hb("hb-run", "--info", out)
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[:-1] == [
        f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items()
    ]
    assert lines[-1].startswith("again: hb-run ")
    name, *again = shlex.split(lines[-1].removeprefix("again: "))
    place = again.index("--bundle") + 1
    assert again[place] == "PATH_TO_nano_07b_merged_all"
    again[place] = str(nano_bundle)
    second = tmp_path / "first-again"
    assert again[again.index("--output") + 1] == str(second)
    done = hb(name, *again)
    assert done.returncode == 0, done.stderr
    first_frames, second_frames = frames(out), frames(second)
    assert len(first_frames) == 4
    for one, other in zip(first_frames, second_frames, strict=True):
        np.testing.assert_array_equal(one, other)


def test_info_of_a_file_from_elsewhere(hb: Command, tmp_path: Path) -> None:
    path = tmp_path / "other.webp"
    Image.new("RGB", (8, 8)).save(path)
    assert_refused(hb("hb-run", "--info", path), 1, "hb-run", "holds no settings: give a file")


def test_prompts_from_a_file_as_json(hb: Command, nano_bundle: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cat\n\n  猫  \n", encoding="utf-8")
    done = hb(
        "hb-run", "--prompts", prompts, "-o", tmp_path / "clip.webp", "--json", "--verify",
        "--bundle", nano_bundle, *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["settings"]["prompt"] for entry in made] == ["a red cat", "猫"]
    assert [entry["path"] for entry in made] == [
        str(tmp_path / f"clip-{number}.webp") for number in ("001", "002")
    ]
    for entry in made:
        assert Path(entry["path"]).stat().st_size > 0
        assert len(entry["timings"]["unet_step_s"]) == 2
        assert entry["timings"]["total_s"] > 0
    # The second video finds the graphs loaded.
    assert set(made[0]["timings"]["load_s"]) == {"text_encoder", "unet", "vae_decoder"}
    assert made[1]["timings"]["load_s"] == {}


def test_a_long_prompt_is_cut_and_said_to_be(
    hb: Command, nano_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.gif"
    done = hb("hb-run", "cat " * 90, "-o", out, "--bundle", nano_bundle, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[1] == (
        "note: the prompt has 92 tokens, the model reads 77: the rest is cut"
    )
    assert out.is_file()


@pytest.mark.slow
def test_words_that_the_built_in_model_does_not_know_are_named(hb: Command, tmp_path: Path) -> None:
    done = hb("hb-run", "a quokka and a big cirle", "-o", tmp_path / "out.gif", *SMALL)
    assert done.returncode == 0, done.stderr
    assert (
        'note: this model was not trained on "quokka", "cirle": try "circle" for "cirle"'
    ) in done.stderr.splitlines()
    many = " ".join(chr(97 + i) * 3 for i in range(20))
    done = hb("hb-run", many, "-o", tmp_path / "out.gif", *SMALL)
    words = (BUILTIN / "tokenizer" / "words.txt").read_text(encoding="utf-8").split()
    known = f"the {len(words)} words that it knows are in words.txt of"
    assert f'"hhh" and 12 more: {known}' in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "give one prompt"),
        (("a cat", "--prompts", "prompts.txt"), 2, "give one prompt"),
        ((" ",), 2, "the prompt is empty: say what the video shows$"),
        (("--prompts", "nowhere.txt"), 2, r"the prompts in nowhere\.txt cannot be read"),
        (("--prompts", "empty.txt"), 2, r"empty\.txt holds no prompt"),
        (("--prompts", "binary.txt"), 2, r"binary\.txt cannot be read"),
        (("a cat", "--size", "64"), 2, "--size is '64': write WIDTHxHEIGHT, such as 64x64"),
        (("a cat", "--size", "64x-64"), 2, "--size is '64x-64'"),
        (("a cat", "--size", "²x64"), 2, "--size is '²x64'"),
        (("a cat", "--size", "65x64"), 2, "width 65 does not divide by 16"),
        (("a cat", "--size", "0x64"), 2, "width is 0"),
        (("a cat", "--frames", "0"), 2, "frames is 0: give 1 to 10000"),
        (("a cat", "--frames", "few"), 2, r"--frames.*see hb-run --help$"),
        (("a cat", "--steps", "51"), 2, "51 sampling steps were requested: choose 1 to 50"),
        (("a cat", "--steps", "0"), 2, "0 sampling steps"),
        (("a cat", "--guidance", "nan"), 2, "guidance is nan"),
        (("a cat", "--fps", "-1"), 2, "fps is -1"),
        (("a cat", "--seed", "-1"), 2, "seed is -1"),
        (("a cat", "another"), 2, "another"),
        (("a cat", "--colour", "red"), 2, r"--colour.*see hb-run --help$"),
        (("a cat", "--device", "abacus"), 2, "no device called 'abacus': choose from auto, cpu"),
        (("a cat", "--device", "openvino:FOO"), 2, "no device called 'openvino:FOO'"),
        (("a cat", "-o", "out.avi"), 2, r"unknown suffix '\.avi'"),
        (("a cat", "-o", "nowhere/out.mp4"), 1, "nowhere.* is not an existing folder"),
        (("a cat", "--bundle", "nowhere"), 1, "there is no bundle at nowhere: check the path"),
        (("a cat", "--bundle", "./nowhere"), 1, "there is no bundle at nowhere: check the path"),
        (("a cat", "--bundle", "./no/where"), 1, r"there is no bundle at no.where: check"),
        (("a cat", "--bundle", ""), 2, "--bundle is empty: give a folder or owner/name"),
        (("a cat", "--bundle", "."), 1, r"is no bundle, it has no hummingbird\.json"),
        (("a cat", "--bundle", "n" * 300), 1, "n{50}"),
        (("--info", "n" * 300), 1, "n{50}"),
        (("--info", "nowhere.mp4"), 1, r"nowhere\.mp4 does not exist"),
    ],
)
def test_wrong_use_is_one_line(
    hb: Command,
    nano_bundle: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    before = sorted(tmp_path.iterdir())
    if "--bundle" not in arguments:
        arguments = (*arguments, "--bundle", str(nano_bundle))
    assert_refused(hb("hb-run", *arguments, cwd=tmp_path), status, "hb-run", message)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="DirectML is what Windows has")
def test_a_device_that_is_not_installed_is_refused(
    hb: Command, nano_bundle: Path, tmp_path: Path
) -> None:
    done = hb("hb-run", "a cat", "--device", "dml", "--bundle", nano_bundle, cwd=tmp_path)
    assert_refused(
        done, 1, "hb-run", r"dml needs DmlExecutionProvider, .* has .*CPUExecutionProvider"
    )


def test_a_changed_bundle_is_refused(hb: Command, nano_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(nano_bundle, bundle)
    weights = bundle / "vae_decoder" / "model.onnx_data"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    done = hb("hb-run", "a cat", "--bundle", bundle, cwd=tmp_path)
    assert_refused(done, 1, "hb-run", r"model\.onnx_data was changed: its SHA-256")
    done = hb("hb-export", "inspect", bundle)
    assert_refused(done, 1, "hb-export", r"model\.onnx_data was changed: its SHA-256")


@pytest.mark.parametrize("length", [252, 300])
def test_a_name_that_no_folder_takes_is_refused_before_work(
    hb: Command, nano_bundle: Path, tmp_path: Path, length: int
) -> None:
    """Not even the superuser can write it, so this holds whoever runs the tests."""
    out = tmp_path / ("o" * length + ".mp4")
    done = hb("hb-run", "a cat", "-o", out, "--bundle", nano_bundle, *SMALL)
    assert_refused(done, 1, "hb-run", "too long.*o{50}|o{50}.*does not take a new file")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_in_the_way_is_refused_before_work(
    hb: Command, nano_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.mp4").mkdir()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine", encoding="utf-8")
    for name, message in (("out.mp4", "is an existing folder"), ("mine", "holds other things")):
        done = hb("hb-run", "a cat", "-o", tmp_path / name, "--bundle", nano_bundle, *SMALL)
        assert_refused(done, 1, "hb-run", message)  # with no line of progress
    assert (mine / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to one process is POSIX's")
def test_ctrl_c_stops_and_leaves_nothing(nano_bundle: Path, tmp_path: Path) -> None:
    # A shell that runs the tests in the background has them and their children ignore SIGINT.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heed}; from hummingbird_edge.runtime.cli import main; main()"
    # Minutes of work: however busy the machine, the signal comes before the end.
    slow = ["--size", "256x256", "--frames", "16", "--steps", "50", "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-c", program, "a cat", "--bundle", str(nano_bundle), *slow],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith("about ")
        assert process.stderr.readline() == "text_encoder 1/1 on cpu\n"
        process.send_signal(signal.SIGINT)
        rest, printed = process.stderr.read(), process.stdout.read()
        assert process.wait(timeout=60) == 130
    assert rest.strip() == "hb-run: stopped, nothing half-written is left"
    assert printed == ""
    assert list(tmp_path.iterdir()) == []


def test_inspect_tells_what_is_in_a_bundle(hb: Command, nano_bundle: Path) -> None:
    done = hb("hb-export", "inspect", nano_bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nano_07b_merged_all: ")
    for text in (
        "unet: 1470532 parameters, float32 stored as float32, opset 18, ",
        "sizes divide by 16; predicts epsilon; default 16 frames of 512x320 in 4 steps",
        "from nano_07b_merged_all.pt",
    ):
        assert text in done.stdout
    done = hb("hb-export", "inspect", nano_bundle, "--json")
    manifest = (nano_bundle / "hummingbird.json").read_text(encoding="utf-8")
    assert json.loads(done.stdout) == json.loads(manifest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("build", "out"), 2, "1 paths were given: write hb-export build SOURCE OUT"),
        (("build", "a", "b", "c"), 2, "3 paths were given"),
        (("build", "--random-weights", "out"), 2, "--random-weights needs --preset or --config"),
        (("build", "--random-weights", "a", "out"), 2, "2 paths were given"),
        (("build", "--random-weights", "--preset", "huge", "out"), 2, "there is no preset 'huge'"),
        (("build", "--random-weights", "--config", "bad.json", "out"), 2, "cannot be read"),
        (("build", "--random-weights", "--config", "list.json", "out"), 2, "is not a JSON object"),
        (("build", "--random-weights", "--config", "odd.json", "out"), 2, "unknown entry 'depth'"),
        (("build", "a", "out", "--storage", "int8"), 2, "--storage is 'int8'"),
        (("build", "nowhere.pt", "out"), 1, r"nowhere\.pt: no such file or folder"),
        (("build", "bad.json", "out"), 1, r"bad\.json: not a checkpoint"),
        (("build", "a", "out", "--colour"), 2, r"--colour.*see hb-export --help$"),
        (("inspect", "nowhere"), 1, "there is no bundle at nowhere"),
        (("destroy",), 2, "destroy"),
    ],
)
def test_wrong_use_of_the_exporter_is_one_line(
    hb_forked: Command, tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    contents: Mapping[str, Any] = {"list.json": [], "odd.json": {"depth": 3}}
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "bad.json").write_text("{'", encoding="utf-8")
    done = hb_forked("hb-export", *arguments, cwd=tmp_path)
    assert_refused(done, status, "hb-export", message)
    assert not (tmp_path / "out").exists()


def test_what_a_cap_of_one_megabyte_answers(hb: Command) -> None:
    done = hb("hb-run", "a red circle", "--max-memory", "1MB")
    assert done.returncode == 2
    assert "cannot run within 1MB: give --max-memory" in done.stderr


def test_listing_and_tuning_are_two_commands(hb: Command) -> None:
    done = hb("hb-run", "--list-devices", "--tune")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--list-devices and --tune are separate commands" in done.stderr


POSIX = pytest.mark.skipif(os.name != "posix", reason="/dev/full and closed streams are POSIX")
SHORT = ("a red circle", "--steps", "1", "--device", "cpu", "-o", "a.webp")


def _with_streams(folder: Path, redirection: str) -> "subprocess.CompletedProcess[str]":
    command = shlex.join(command_line("hb-run", *SHORT))
    return subprocess.run(
        ["sh", "-c", f"{command} {redirection}"], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&-"])
def test_a_video_needs_no_stream(tmp_path: Path, redirection: str) -> None:
    done = _with_streams(tmp_path, redirection)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.webp").stat().st_size > 0


@pytest.mark.slow
@POSIX
def test_a_full_stdout_does_not_hide_that_the_video_is_there(tmp_path: Path) -> None:
    done = _with_streams(tmp_path, ">/dev/full")
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("hb-run: the video is saved as a.webp, but the standard output cannot")
    assert (tmp_path / "a.webp").stat().st_size > 0


NOISY = """
import contextlib, ctypes, json, os, subprocess, sys, typer
from hummingbird_edge.runtime.command import run_command

app = typer.Typer()

@app.command()
def main() -> None:
    with contextlib.suppress(OSError):
        os.write(1, b"EP Error ")
    if os.name == "posix":  # what the C library holds back until the process ends
        ctypes.CDLL(None).printf(b"late ")
    subprocess.run([sys.executable, "-c", "print('child', end=' ')"])
    print(json.dumps({"a": "\N{LATIN SMALL LETTER E WITH ACUTE}"}))

run_command(app, "noisy")
"""
"""A command whose engine prints on the standard output."""


def test_engines_do_not_print_into_json() -> None:
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"a": "\xe9"}
    words = {"EP", "Error", "child"} | ({"late"} if os.name == "posix" else set())
    assert set(done.stderr.split()) == words


@POSIX
@pytest.mark.parametrize(
    ("redirection", "status", "printed"),
    [
        ("2>&-", 0, '{"a": "\\u00e9"}\n'),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("2>/dev/full", 0, '{"a": "\\u00e9"}\n'),
        (">/dev/full", 1, ""),
    ],
)
def test_streams_may_be_closed_or_full(redirection: str, status: int, printed: str) -> None:
    command = shlex.join([sys.executable, "-c", NOISY])
    done = subprocess.run(["sh", "-c", f"{command} {redirection}"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, printed), done.stderr


@POSIX
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_line_is_said_in_one_write(unbuffered: str) -> None:
    """Processes share stderr: between two writes of a line another one's would come."""
    program = "from hummingbird_edge.runtime.command import say; say('one'); say('two')"
    program += "; import sys; sys.stderr = None; say('nobody hears')"  # as where it was never open
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)  # keeps writes apart
    with mine, theirs:
        mine.settimeout(10)
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        command = [sys.executable, "-c", program]
        subprocess.run(command, check=True, stderr=theirs.fileno(), env=environment)
        assert [mine.recv(100), mine.recv(100)] == [b"one\n", b"two\n"]


@POSIX
def test_a_name_commands_no_terminal(hb: Command, tmp_path: Path) -> None:
    done = hb("hb-run", "a", "--bundle", tmp_path / "\x1b[2Jred\nline", cwd=tmp_path)
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
