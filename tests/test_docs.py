"""README and docs: commands exist as they are written, and examples run.

Every line of a `sh` block, every line after `$ ` in a `text` block and every command in a code span
must parse: the command, its subcommand, its options, how many arguments it takes.

Every `python` block runs; the blocks of a page are one program, in order. Every command of a `sh`
block in the README runs too, or is one that `.ci/run` runs. They run in a new folder that has

    07B_merged_all.pt      a small checkpoint in the layout of AMD's
    hummingbird/           the bundle of it
    prompts.txt            four prompts

A comment right above a block, `<!-- long -->` or `<!-- needs ... -->`, says why it is only parsed:
then what it calls of this project must take its arguments.
"""

import argparse
import ast
import importlib
import inspect
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer.main

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.media.video import read_settings

ROOT = Path(__file__).parent.parent
COMMANDS = ROOT / "docs" / "commands.md"
NANO = ROOT / "tests" / "data" / "nano_07b_merged_all.pt"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if page != COMMANDS]
CHECKPOINT, BUNDLE = "07B_merged_all.pt", "hummingbird"
KEPT_FROM_RUNNING = re.compile(r"<!-- (long|needs)\b.*-->")
OURS = {"hb-run": "runtime", "hb-export": "export", "hb-distill": "distill", "hb-serve": "serve"}
OPTION = re.compile(r"--[a-z][a-z-]*")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str
    line: int
    """Of its first line of text, counted from 1."""
    text: str
    runs: bool
    """False where the comment above it says that it is only parsed."""

    def commands(self) -> list[str]:
        """Return the commands that a reader would type."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language in ("sh", "bash", "console"):
            lines = [line.removeprefix("$ ") for line in lines]
        else:
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        found = [part for line in lines for part in _parts(line)]
        return [command for command in found if command]


def _parts(line: str) -> list[str]:
    """Split `a && b # why` into its commands."""
    lexer = shlex.shlex(line, posix=False, punctuation_chars="&|;")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [" ".join(part) for part in parts]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found, start, language, runs = [], None, "", True
    for number, line in enumerate(lines):
        fence = re.match(r"\s*```\s*(\w*)", line)
        if fence is None:
            continue
        if start is None:
            start, language = number + 1, fence[1]
            above = next((each for each in reversed(lines[:number]) if each.strip()), "")
            runs = KEPT_FROM_RUNNING.search(above) is None
        else:
            indent = len(line) - len(line.lstrip())
            text = "\n".join(each[indent:] for each in lines[start:number])
            found.append(Block(language, start + 1, text, runs))
            start = None
    assert start is None, f"{page}: the block at line {start} never ends"
    return found


def spans(page: Path) -> list[str]:
    """Return the code spans of a page, those of blocks aside."""
    text = re.sub(r"^\s*```.*?^\s*```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def command_of(words: list[str]) -> tuple[Any, list[str]] | None:
    """Return the Click command that `words` start, and its arguments; None for other programs."""
    if words[0] in OURS:
        package = OURS[words[0]]
        app, rest = importlib.import_module(f"hummingbird_edge.{package}.cli").app, words[1:]
    elif words[0] == "python" and words[1:] and words[1].startswith("benchmarks/"):
        assert (ROOT / words[1]).is_file(), f"there is no {words[1]}"
        app, rest = (
            importlib.import_module(f"hummingbird_edge.benchmarks.{Path(words[1]).stem}").app,
            words[2:],
        )
    elif "hummingbird_edge.distill" in words:  # accelerate launch ... -m hummingbird_edge.distill
        if words[0] == "torchrun":
            assert_torchrun_takes(words[1:])
        return command_of(["hb-distill", *words[words.index("hummingbird_edge.distill") + 1 :]])
    else:
        return None
    command: Any = typer.main.get_command(app)
    members = getattr(command, "commands", None)
    if members and rest and not rest[0].startswith("-"):
        assert rest[0] in members, f"{words[0]} has no {rest[0]}"
        return members[rest[0]], rest[1:]
    return command, rest


def assert_torchrun_takes(arguments: list[str]) -> None:
    """Hold arguments to torchrun's parser, which looks at the program's own options too.

    It took `--start` as the beginning of `--start-method` and of `--start_method`.
    """
    from torch.distributed.run import get_args_parser

    def refuse(_: argparse.ArgumentParser, message: str) -> NoReturn:
        raise ValueError(message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "error", refuse)
        get_args_parser().parse_args(arguments)


def assert_known(line: str) -> None:
    """Hold a command to what its program takes."""
    words = [word.strip("[]") for word in shlex.split(line, comments=True)]
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    if not words or (found := command_of(words)) is None:
        return
    command, arguments = found
    if "--help" in arguments or not arguments:
        return
    # Words such as FILE are what a reader puts in: types and files are not looked at.
    context = command.make_context(words[0], [], resilient_parsing=True)
    context.resilient_parsing = False  # only for what it lacks, not for what it does not know
    _, extra, _ = command.make_parser(context).parse_args(
        [word for word in arguments if word != "..."]
    )
    assert not extra, f"{words[0]} does not take {extra}"


def options_of_all() -> set[str]:
    """Return every option of every command, script and of check.py."""
    known = {"--help"}
    for file in ROOT.glob("*/**/*.py"):
        if file.parts[len(ROOT.parts)] in ("runtime", "export", "distill", "benchmarks"):
            known |= set(OPTION.findall(file.read_text(encoding="utf-8")))
    # Typer makes an option of a parameter's name where none is given.
    known |= set(OPTION.findall(COMMANDS.read_text(encoding="utf-8")))
    for script in (ROOT / "benchmarks").glob("*.py"):
        app = importlib.import_module(f"hummingbird_edge.benchmarks.{script.stem}")
        if hasattr(app, "app"):
            parameters = typer.main.get_command(app.app).params
            known |= {name for parameter in parameters for name in parameter.opts}
    return known | set(OPTION.findall((ROOT / "check.py").read_text(encoding="utf-8")))


def test_the_command_reference_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "commands.py"))["reference"]()
    assert "| `--max-memory` |" in made
    assert "### hb-distill consistency" in made
    assert COMMANDS.read_text(encoding="utf-8") == made, "run python docs/commands.py"


def test_the_gallery_shows_what_the_built_in_model_makes() -> None:
    gallery = runpy.run_path(str(ROOT / "docs" / "gallery.py"))
    again = "run python docs/gallery.py"
    assert gallery["PAGE"].read_text(encoding="utf-8") == gallery["page"](), again
    entries = list(gallery["entries"]())
    assert len(entries) >= 16
    for seed, prompt, path in entries:
        settings = read_settings(path)
        assert (settings["seed"], settings["prompt"]) == (seed, prompt), again
        assert settings["bundle_sha256"] == Bundle.open(BUILTIN).digest, again


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_is_known(page: Path) -> None:
    lines = [(block.line, line) for block in blocks(page) for line in block.commands()]
    lines += [(0, span) for span in spans(page) if span.split()[0] in (*OURS, "python")]
    faults = []
    for number, line in lines:
        try:
            assert_known(line)
        except Exception as error:  # of Click, or what is asserted above
            if not number and "requires an argument" in str(error):
                continue  # a sentence may name an option without its value
            faults.append(f"{page.name}:{number or ''}: {line}: {error}")
    assert faults == []


@pytest.mark.parametrize(
    "line",
    [
        "hb-run --no-such-option",
        "hb-run a prompt without quotes",
        "hb-run 'a red cat' --steps",
        "hb-export frob BUNDLE",
        "hb-export inspect BUNDLE --force",
        "python benchmarks/latency.py --no-such-option 3",
        "python benchmarks/no_such_script.py",
        "torchrun --nproc_per_node 2 -m hummingbird_edge.distill matching runs/mine --prompts x",
    ],
)
def test_what_no_command_takes_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|does not take|has no|there is no|requires"):
        assert_known(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_option_is_known(page: Path) -> None:
    known = options_of_all()
    found = {span.split()[0] for span in spans(page) if OPTION.fullmatch(span.split()[0])}
    assert found <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    inside = {target.partition("#")[0] for target in targets if "://" not in target} - {""}
    assert {target for target in inside if not (page.parent / target).exists()} == set()


def assert_calls_fit(program: str) -> int:
    """Hold what a program calls by a name imported from this project to its signature; count it."""
    tree, known, count = ast.parse(program), dict[str, str](), 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hummingbird_edge"):
            known |= {alias.name: str(node.module) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            function = getattr(importlib.import_module(known[node.func.id]), node.func.id)
            named = {str(keyword.arg): None for keyword in node.keywords}
            inspect.signature(function).bind(*[None] * len(node.args), **named)
            count += 1
    return count


def test_calls_that_only_parse_fit() -> None:
    kept = [
        block
        for page in PAGES
        for block in blocks(page)
        if block.language == "python" and not block.runs
    ]
    assert sum(assert_calls_fit(block.text) for block in kept) >= 4
    line = "from hummingbird_edge.export import build_bundle"
    for wrong in ("build_bundle('a')", "build_bundle('a', 'b', colour=1)"):
        with pytest.raises(TypeError, match="argument"):
            assert_calls_fit(f"{line}\n{wrong}")


def _params(language: str, pages: list[Path]) -> list[Any]:
    """Return each page with its blocks that run."""
    found = []
    for page in pages:
        running = [each for each in blocks(page) if each.language == language and each.runs]
        if running:
            # The small checkpoint has to be exported, before the example or by it; or it trains.
            pattern = rf"\b({BUNDLE}|{re.escape(CHECKPOINT)}|hummingbird_edge\.distill)\b"
            slow = any(re.search(pattern, block.text) for block in running)
            marks = [pytest.mark.slow] if slow or language == "sh" else []
            name = page.relative_to(ROOT).as_posix()
            found.append(pytest.param(page, running, id=name, marks=marks))
    return found


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a new folder with the files that examples may name."""
    if request.node.get_closest_marker("slow"):
        shutil.copytree(request.getfixturevalue("nano_bundle"), tmp_path / BUNDLE)
    shutil.copy(NANO, tmp_path / CHECKPOINT)
    prompts = ["a red cat", "a blue dog runs", "rain on a window", "a car at night"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("page", "chosen"), _params("python", PAGES))
def test_python_examples_run(page: Path, chosen: list[Block], folder: Path) -> None:
    # One program, each block at the lines that it has on the page: a traceback names them.
    program = ""
    for block in chosen:
        program += "\n" * (block.line - 1 - program.count("\n")) + block.text + "\n"
    (folder / f"{page.stem}.py").write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, f"{page.stem}.py"], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "chosen"), _params("sh", PAGES[:1]))
def test_commands_of_the_readme_run(
    page: Path, chosen: list[Block], folder: Path, hb: Callable[..., Any]
) -> None:
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace(" --quiet", "")
    for block in chosen:
        for line in block.commands():
            where, words = f"{page.name}:{block.line}: {line}", shlex.split(line)
            if words[0] in OURS:
                done = hb(*words, cwd=folder)
                assert done.returncode == 0, f"{where}: {done.stderr}"
            elif words[:3] == ["pip", "install", words[-1]] and words[-1].startswith("."):
                extras = set(re.findall(r"[\w-]+", words[-1][1:]))
                assert extras <= set(_extras()), f"{where}: no such extra"
            else:
                assert line in gate, f"{where}: neither run here, nor in .ci/run, nor marked"


def _extras() -> list[str]:
    from importlib.metadata import metadata

    return metadata("hummingbird-edge").get_all("Provides-Extra") or []
