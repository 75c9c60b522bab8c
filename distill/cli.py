"""The command `hb-distill`: train, prune, distil and judge, stage by stage.

Every training stage goes on from its last checkpoint when it is started again.
"""

import typer

from hummingbird_edge.distill.commands import judging, training, videos
from hummingbird_edge.runtime.command import Version, require_modules, run_command

__all__ = ["main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def needs_pytorch(version: Version = False) -> None:
    """Train, prune, distil and judge models of cartoons, moving shapes or your own videos."""
    require_modules("distill", "torch", "safetensors", "accelerate")


app.command("all")(training.everything)
for command in (
    training.autoencoder,
    videos.clips,
    training.teacher,
    training.prune,
    training.matching,
    training.scorer,
    training.consistency,
    training.decoder,
    videos.lora,
    videos.curate,
    judging.score,
    judging.quantize,
    judging.ablate,
    judging.card,
    judging.judge,
    judging.strip,
):
    app.command()(command)


def main() -> None:
    """Run the command; the entry point of `hb-distill`."""
    run_command(app, "hb-distill", "run the same command again to go on from its last checkpoint")
