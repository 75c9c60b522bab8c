"""The prompts of a run, and the videos that the protocol asks for: names, folders, seeds.

The official suite is read from the package `vbench`, which need not be importable: its own
dependencies exclude this project's. Each prompt gets 5 videos, or 25 for temporal flickering, where
a filter then drops those that move. A video's seed is its place in the whole suite, so that neither
`--dimension` nor `--shard` changes it.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from hummingbird_edge.benchmarks.lib.vbench.dimensions import BY_NAME, FLICKER, OWN_PROMPTS
from hummingbird_edge.runtime.errors import DeviceError, RequestError
from hummingbird_edge.runtime.prompts import read_prompts

__all__ = [
    "EVALUATED",
    "OWN_FOLDER",
    "Prompt",
    "Sample",
    "Suite",
    "file_stem",
    "official_info",
    "parse_shard",
    "shard_of",
]

EVALUATED = 5
"""Videos of a prompt that the evaluator reads: those numbered 0 to 4."""
_BEFORE_FILTER = 25
"""Videos of a prompt for temporal flickering, of which 5 static ones are evaluated."""
OWN_FOLDER = "own_prompts"
_INFO = "vbench/VBench_full_info.json"
_REFUSED = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""What some common file system does not take in a name."""
_MAX_STEM = 240
"""Bytes of a name, which leaves room for `-24.mp4` within the 255 that file systems take."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a suite."""

    text: str
    dimensions: tuple[str, ...]
    folder: str
    """Of its videos."""
    samples: int = EVALUATED
    """How many videos it gets."""

    @classmethod
    def official(cls, text: str, dimensions: tuple[str, ...]) -> "Prompt":
        """Return a prompt of the official suite; its list is named after its first dimension."""
        samples = _BEFORE_FILTER if FLICKER in dimensions else EVALUATED
        return cls(text, dimensions, dimensions[0], samples)


@dataclass(frozen=True, slots=True)
class Sample:
    """One video of a run."""

    file: str
    """FOLDER/NAME.mp4, below the run's folder."""
    prompt: str
    index: int
    """From 0, among the videos of its prompt."""
    seed: int
    dimensions: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The folder of the file."""
        return self.file.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Suite:
    """Prompts, in their order."""

    name: str
    """`vbench 0.1.5`, or the name of the user's file."""
    sha256: str
    """Of the file that they were read from."""
    prompts: tuple[Prompt, ...]
    is_official: bool

    @classmethod
    def official(cls) -> "Suite":
        """Read the suite that the package `vbench` ships; raises DeviceError, RequestError."""
        path, version = official_info()
        try:
            text = path.read_bytes()
            entries: list[dict[str, Any]] = json.loads(text)
            prompts = tuple(
                Prompt.official(str(entry["prompt_en"]), tuple(map(str, entry["dimension"])))
                for entry in entries
            )
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise RequestError(
                f"the prompts of vbench {version} cannot be read ({error!r}): install it again"
            ) from error
        unknown = {name for prompt in prompts for name in prompt.dimensions} - set(BY_NAME)
        if unknown:
            raise RequestError(
                f"vbench {version} has prompts for dimensions that are not known here "
                f"({', '.join(sorted(unknown))}): install vbench 0.1.5"
            )
        return cls(f"vbench {version}", hashlib.sha256(text).hexdigest(), prompts, True)

    @classmethod
    def of_file(cls, path: Path) -> "Suite":
        """Read prompts of one's own, one a line, each for all dimensions that take such."""
        texts = dict.fromkeys(read_prompts(path))  # a line that is there twice counts once
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        prompts = tuple(Prompt(text, (*OWN_PROMPTS, FLICKER), OWN_FOLDER) for text in texts)
        return cls(path.name, digest, prompts, False)

    def samples(self, first_seed: int = 0) -> tuple[Sample, ...]:
        """Return every video, in the order of prompts; seeds count up from `first_seed`.

        Names are `{prompt}-{i}.mp4`. No two of a folder differ by case alone, since many file
        systems take them for one: a prompt whose name is taken goes to the folder FOLDER-2.
        """
        found, taken = list[Sample](), set[tuple[str, str]]()
        for prompt in self.prompts:
            folder, stem = _place(prompt, taken)
            for index in range(prompt.samples):
                file, seed = f"{folder}/{stem}-{index}.mp4", first_seed + len(found)
                found.append(Sample(file, prompt.text, index, seed, prompt.dimensions))
        return tuple(found)


def _place(prompt: Prompt, taken: set[tuple[str, str]]) -> tuple[str, str]:
    """Return a folder for the prompt's videos in which their name is free, and that name."""
    stem, folder, number = file_stem(prompt.text), prompt.folder, 1
    key = unicodedata.normalize("NFC", stem).casefold()
    while (folder, key) in taken:
        number += 1
        folder = f"{prompt.folder}-{number}"
    taken.add((folder, key))
    return folder, stem


def official_info() -> tuple[Path, str]:
    """Return the file of the official prompts and the package's version; raises DeviceError."""
    try:
        package = distribution("vbench")
    except PackageNotFoundError:
        raise DeviceError(
            "the official prompts come with the package vbench, which is not installed: "
            "pip install --no-deps vbench==0.1.5"
        ) from None
    return Path(str(package.locate_file(_INFO))), package.version


def file_stem(prompt: str) -> str:
    """Return the name of a prompt's videos without number: the prompt as file systems take it."""
    name = _REFUSED.sub("_", prompt)
    return name.encode("utf-8", "replace")[:_MAX_STEM].decode("utf-8", "ignore")


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return K and N of `K/N`, 1/1 for None; raises RequestError."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", "1/1" if text is None else text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise RequestError(f"--shard is {text!r}: write K/N with K from 1 to N, such as 3/10")
    return number, count


def shard_of(samples: Sequence[Sample], number: int, count: int) -> Iterator[Sample]:
    """Yield every `count`-th sample from the `number`-th on: shards are disjoint and complete."""
    yield from samples[number - 1 :: count]
