"""The command `hb-serve`: the studio and an API on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hummingbird_edge.runtime.command import Version, require_modules, run_command, say

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_MODULES = ("fastapi", "uvicorn", "multipart", "prometheus_client", "sse_starlette", "mcp")


@app.command()
def serve(
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PATH or PATH of a model bundle, or owner/name; else the built-in one. The "
            "first one is the default."
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="As hb-run's --device; a worker for each that is given, else one: auto."),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Most memory of each worker, such as 4GB.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's needs --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8765,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="HUMMINGBIRD_TOKEN", help="What clients must send; also HUMMINGBIRD_TOKEN."
        ),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the studio in the browser.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder of jobs and videos; else the user's own.")
    ] = None,
    max_store: Annotated[
        str, typer.Option(help="Most room for videos; the oldest go, pinned ones stay.")
    ] = "10GB",
    max_queue: Annotated[
        int, typer.Option(min=1, max=1000, help="Most videos that wait or are being made.")
    ] = 100,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Speak the Model Context Protocol on stdin and stdout.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log what happens; never prompts.")
    ] = False,
    version: Version = False,
) -> None:
    """Make videos for a browser, OpenAI's client, or an assistant.

    Jobs and videos outlast a restart: what was being made goes on after its last step.
    """
    require_modules("serve", *_MODULES)
    from hummingbird_edge.runtime.placement.memory import parse_memory
    from hummingbird_edge.runtime.placement.planner import Planner
    from hummingbird_edge.serve.models import open_models
    from hummingbird_edge.serve.server import Address, serve_http, serve_stdio
    from hummingbird_edge.serve.service import Service
    from hummingbird_edge.serve.store import Store

    address = Address(host, port, token)
    devices = tuple(dict.fromkeys(device or ["auto"]))
    most = None if max_memory is None else parse_memory(max_memory)
    models = open_models(bundle or [])
    for model in models.values():
        for each in devices:
            Planner(model.bundle, each)  # refuses a device that cannot be had
    store = Store.open(data or _data_folder(), parse_memory(max_store, "--max-store"))
    service = Service(store, models, devices, most, max_queue)
    if mcp:
        serve_stdio(service)
        return
    listener = address.listen()
    if address.token is None or sys.stderr.isatty():
        say(f"hb-serve: {address.url}")
    else:  # stderr may be a log that others read
        say(f"hb-serve: {address.plain_url} wants the token of --token or HUMMINGBIRD_TOKEN")
    if open_page:
        import threading
        import webbrowser

        threading.Timer(1.0, webbrowser.open, [address.url]).start()
    serve_http(service, address, listener, verbose)


def _data_folder() -> Path:
    from platformdirs import user_data_path

    return user_data_path("hummingbird-edge") / "serve"


def main() -> None:
    """Run the command; the entry point of `hb-serve`."""
    run_command(app, "hb-serve", "jobs and videos are kept")
