"""Write docs/commands.md, the reference of all commands, from the commands themselves.

python docs/commands.py
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from hummingbird_edge.distill.cli import app as hb_distill
from hummingbird_edge.export.cli import app as hb_export
from hummingbird_edge.runtime.cli import app as hb_run
from hummingbird_edge.serve.cli import app as hb_serve

PAGE = Path(__file__).parent / "commands.md"
APPS = {"hb-run": hb_run, "hb-export": hb_export, "hb-distill": hb_distill, "hb-serve": hb_serve}
HEAD = """# Commands

Made by `python docs/commands.py` from the commands themselves, which print the same with `--help`.
Exit codes: 0, 1 (an error, one sentence on stderr), 2 (wrong usage), 130 (Ctrl-C), 143 (SIGTERM).
"""


def reference() -> str:
    """Return the page."""
    return "\n".join([HEAD, *(section(*found) for found in commands())])


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command by its full name, a group before its members."""
    for name, app in APPS.items():
        command: Any = typer.main.get_command(app)
        yield name, command
        for member, found in sorted(getattr(command, "commands", {}).items()):
            yield f"{name} {member}", found


def section(name: str, command: Any) -> str:
    """Describe one command: what it does, its arguments, its options."""
    level = "##" if " " not in name else "###"
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([name, *map(metavar, arguments)])
    lines = [f"{level} {name}", "", inspect.cleandoc(command.help or ""), ""]
    if getattr(command, "commands", None):
        lines += [f"- `{name} {member}`" for member in sorted(command.commands)] + [""]
        return "\n".join(lines)
    lines += [f"    {usage} [OPTIONS]", "", "| | default | |", "|---|---|---|"]
    lines += [f"| `{metavar(each)}` | | {cell(each.help)} |" for each in arguments]
    lines += [
        f"| {names(each)} | {default(each)} | {cell(each.help)} |"
        for each in sorted(options, key=lambda option: option.name == "version")
    ]
    return "\n".join([*lines, ""])


def metavar(argument: Any) -> str:
    """Return how usage shows an argument: optional ones in brackets."""
    name = (argument.metavar or argument.name.upper()) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def names(option: Any) -> str:
    """Return an option's names, and its off switch where it has one."""
    every = [*sorted(option.opts, key=len, reverse=True), *option.secondary_opts]
    return ", ".join(f"`{name}`" for name in every)


def default(option: Any) -> str:
    """Return what holds where the option is left out; nothing where that is nothing."""
    value = option.default
    if value is None or isinstance(value, bool) or callable(value) or value == []:
        return ""
    return f"`{value.as_posix() if isinstance(value, Path) else value}`"


def cell(text: str | None) -> str:
    """Return a help text as a table takes it."""
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8", newline="\n")
