"""`--info`: how a video was made and is made again; `--list-unfinished`: what can be resumed."""

import json
from pathlib import Path

from hummingbird_edge.runtime.command import printable

__all__ = ["command_again", "print_info", "print_unfinished"]


def print_info(path: Path, as_json: bool) -> None:
    """Print how the video at `path` was made; raises OutputError."""
    from hummingbird_edge.runtime.media.enhancement import describe, records
    from hummingbird_edge.runtime.media.video import read_settings

    settings = read_settings(path)
    if as_json:
        print(json.dumps(settings))
        return
    for name, value in settings.items():
        print(printable(f"{name}: {json.dumps(value, ensure_ascii=False)}"))
    for record in records(settings):
        print(printable(f"enhanced: {describe(record)}"))
    print(printable(f"again: {command_again(settings, path)}"))


def command_again(settings: dict[str, object], path: Path | None = None) -> str:
    """Return the command that makes a video with these settings again.

    Where it is at `path`, the other one is of the same kind, in its folder under another name: the
    frames of a GIF are not those of an MP4.
    """
    import os
    import shlex
    import subprocess

    from hummingbird_edge.runtime.cli.again import commands_again
    from hummingbird_edge.runtime.media.enhancement import records

    if settings.get("noise") == "given":
        return "not with a command: the noise was given, not drawn from the seed"
    # A video of another program may have been enhanced here.
    is_foreign = "prompt" not in settings and bool(records(settings))
    commands = commands_again([] if is_foreign else _generating(settings), settings)
    if path is not None:
        last, name = commands[-1], f"{path.stem or 'out'}-again{path.suffix}"
        at = last.index("--") if "--" in last else 1
        last[at:at] = ["--output", os.fspath(path.parent / name)]
    return " && ".join(map(subprocess.list2cmdline if os.name == "nt" else shlex.join, commands))


def _generating(settings: dict[str, object]) -> list[str]:
    """Return the words of the command that generates; raises OutputError."""
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN
    from hummingbird_edge.runtime.bundle.manifest import MANIFEST
    from hummingbird_edge.runtime.cli.again import options_again
    from hummingbird_edge.runtime.errors import OutputError
    from hummingbird_edge.runtime.files import sha256_of

    try:
        parts = ["hb-run", *options_again(settings)]
        for name in ("frames", "steps", "guidance", "seed"):
            parts += [f"--{name}", str(settings[name])]
        if settings.get("decoder", "full") != "full":
            parts += ["--decoder", str(settings["decoder"])]
        prompt = str(settings["prompt"])
    except KeyError as error:
        raise OutputError(
            f"the file does not say its {error.args[0]}: it was made otherwise"
        ) from None
    for option, key in (("--device", "devices"), ("--precision", "precisions")):
        if recorded := _by_stage(settings.get(key)):
            parts += [option, recorded]
    manifest = BUILTIN / MANIFEST
    if not manifest.is_file() or settings.get("bundle_sha256") != sha256_of(manifest):
        parts += ["--bundle", f"PATH_TO_{settings.get('model')}"]
    return [*parts, "--", prompt]


def _by_stage(recorded: object) -> str | None:
    """Return what `--device` or `--precision` takes for a file's record: one name or one each."""
    from hummingbird_edge.runtime.devices.backend import STAGE_NAMES

    if not isinstance(recorded, dict):
        return None  # an old file
    # Whichever decoder ran is the user's `vae`.
    short = {stage: name for name, stage in STAGE_NAMES.items()} | {"tiny_decoder": "vae"}
    found = {short[stage]: str(name) for stage, name in recorded.items() if stage in short}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ",".join(f"{stage}={name}" for stage, name in found.items())


def print_unfinished(as_json: bool) -> None:
    """Print the videos that `--resume` can go on with, the newest first."""
    import time

    from hummingbird_edge.runtime.media.unfinished import list_unfinished

    rows = [
        {
            "file": str(each.path),
            "prompt": each.file.settings.get("prompt"),
            "taken": each.file.taken,
            "steps": each.file.settings.get("steps"),
            "output": each.file.origin.get("output"),
            "running": each.is_running,
            "modified": time.strftime("%Y-%m-%d %H:%M", time.localtime(each.modified)),
        }
        for each in list_unfinished()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        state = "being made" if row["running"] else f"{row['taken']} of {row['steps']} steps"
        print(printable(f"{row['modified']}  {state:<14}  {row['prompt']}  ({row['file']})"))
    if not rows:
        print("no video is unfinished")
