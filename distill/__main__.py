"""The same command under `accelerate launch -m hummingbird_edge.distill`."""

from hummingbird_edge.distill.cli import main

main()
