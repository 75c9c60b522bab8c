"""Runs commands in forks of a process that has imported the large libraries.

`conftest.py` starts it. PyTorch, ONNX and Matplotlib take seconds to import, most of the time of a
command that is refused; a fork has them already, and imports this project's own modules as any new
process does.

A line of JSON on stdin is a job: `program`, `arguments`, `folder`, `environment`, `out`, `errors`
(files for its streams), `timeout_s`. Its exit status, as `subprocess` has it, is a line on stdout.
"""

import gc
import importlib
import json
import os
import signal
import sys
from typing import Any

LIBRARIES = (
    *("torch", "onnx", "onnxscript", "onnx_ir", "skimage.metrics", "matplotlib.figure"),
    *("typer", "rich.console", "msgspec", "psutil", "platformdirs", "PIL.Image"),
)


def main() -> None:
    """Take jobs until stdin ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # else the collector of each fork walks through, and so copies, all of them
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        process = os.fork()
        if process == 0:
            run(job)
            return
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(job: dict[str, Any]) -> None:
    """Be the process of a job; the interpreter ends as that of any program does."""
    signal.alarm(job["timeout_s"])
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    streams = {0: (os.devnull, os.O_RDONLY)}
    streams |= {number: (job[name], os.O_WRONLY) for number, name in ((1, "out"), (2, "errors"))}
    for number, (path, flags) in streams.items():
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv, sys.path[0] = ["-c", *job["arguments"]], ""  # as of any `python -c`
    exec(compile(job["program"], "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
