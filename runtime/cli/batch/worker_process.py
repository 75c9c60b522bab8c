"""A process that makes the videos of one device, one after another.

    python -m hummingbird_edge.runtime.cli.batch.worker_process

`local.py` says what it reads and writes. It ends when its input does, which is when its parent
ends, however that happens.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from hummingbird_edge.runtime.cli.batch.worker import Answer, Cores, Maker, Settings
from hummingbird_edge.runtime.command import note
from hummingbird_edge.runtime.errors import HummingbirdError
from hummingbird_edge.runtime.request import Request

__all__ = ["main"]


def main() -> None:
    """Work until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # What is half-written is removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(SystemExit):
        _work()
    os._exit(0)  # a thread has standard input, which Python would close


def _work() -> None:
    """Answer lines, until one has no answer that lets others be answered."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # engines and drivers print as they like
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    try:
        first = json.loads(lines.get())
        Cores(**first["cores"]).keep()
        settings = Settings(**first["settings"])
        maker = Maker(settings, first["device"], Path(settings.bundle), note)
        answer = Answer()
        while True:
            _say(answers, asdict(answer))
            task = json.loads(lines.get())
            answer = maker.make(Request(**task["request"]), Path(task["path"]))
    except (HummingbirdError, OSError) as error:
        _say(answers, {"fatal": str(error)})


def _say(answers: IO[bytes], entries: Mapping[str, Any]) -> None:
    with suppress(OSError):  # the parent is gone: so is its input
        answers.write(json.dumps(entries).encode() + b"\n")
        answers.flush()


def _listen(lines: "queue.SimpleQueue[bytes]") -> None:
    """Pass lines on; without a parent there is nothing left to do, even amid a video."""
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
