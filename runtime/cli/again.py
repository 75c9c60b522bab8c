"""The commands that make an enhanced video again, from what its file says."""

from collections.abc import Mapping

from hummingbird_edge.runtime.cli.enhancing import FAST, FILE, PLAIN
from hummingbird_edge.runtime.media.enhancement import records

__all__ = ["commands_again", "options_again"]

_SUFFIXES = (".mp4", ".gif", ".webp", "")


def options_again(settings: Mapping[str, object]) -> list[str]:
    """Return the options of `hb-run` that generate a video again and enhance it.

    They are for the size, the frames a second and the first enhancement, where that was one of
    options. Raises KeyError for settings without these.
    """
    size, rate = f"{settings['width']}x{settings['height']}", ["--fps", str(settings["fps"])]
    first = next(iter(records(settings)), {})
    if first.get("by") not in (FAST, PLAIN):
        return ["--size", size, *rate]
    fast = ["--fast"] if first["by"] == FAST else []
    options = [*fast, *_options(first)]
    return options if first.get("interpolate") else [*options, *rate]


def commands_again(generate: list[str], settings: Mapping[str, object]) -> list[list[str]]:
    """Return the commands that make a video again; `generate` is the first one, empty for none.

    Where the pixels were worked on after it, that is done by a command each.
    """
    later = records(settings)
    if later and later[0].get("by") in (FAST, PLAIN):
        del later[0]
    commands = [generate]
    for number, record in enumerate(later, 1):
        # What was worked on in memory is the same in a lossless file.
        suffix = record.get("of", ".webp")
        source = f"step-{number}{suffix if suffix in _SUFFIXES else '.webp'}"
        if commands[-1]:
            commands[-1][1:1] = ["--output", source]
        else:
            source = f"PATH_TO_THE_VIDEO{suffix}"
        commands.append(["hb-run", "--enhance", source, *_options(record)])
    return [command for command in commands if command]


def _options(record: Mapping[str, object]) -> list[str]:
    """Return the options that repeat an enhancement."""
    found = ["--size", f"{record.get('width')}x{record.get('height')}"]
    upscaler = record.get("upscaler")
    if isinstance(upscaler, dict):
        found += ["--upscaler", f"PATH_TO_{upscaler.get('name')}"]
        if record.get("by") == FILE and upscaler.get("device", "cpu") != "cpu":
            found += ["--device", str(upscaler["device"])]
    if record.get("interpolate"):
        found += ["--interpolate", "motion", "--fps", str(record.get("fps"))]
    return found
