"""A process that makes many videos grows no further: its memory settles.

HUMMINGBIRD_SOAK=1 runs it: three hundred videos of changing sizes on each CPU engine.
"""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("HUMMINGBIRD_SOAK" not in os.environ, reason="long: HUMMINGBIRD_SOAK=1"),
]

COUNT, SETTLED = 300, 50
PROGRAM = """
import json, random, sys
from hummingbird_edge.runtime.devices.resident import resident_bytes
from hummingbird_edge.runtime.pipeline import TextToVideo

device, count = sys.argv[1], int(sys.argv[2])
pipeline, draw = TextToVideo.from_bundle(device=device, notify=lambda _: None), random.Random(0)
sizes = [(f, w, h) for f in (1, 4, 8, 13) for w, h in ((64, 64), (128, 64), (192, 128))]
found = []
while len(found) < count:
    for frames, width, height in draw.sample(sizes, len(sizes)):
        pipeline("a red circle", frames=frames, width=width, height=height, steps=1)
        found.append(resident_bytes())
        told = f"{len(found)}: {frames} x {width}x{height}, {found[-1] >> 20} MiB"
        print(told, file=sys.stderr, flush=True)
print(json.dumps(found[:count]))
"""


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_three_hundred_videos_take_no_more_than_fifty(device: str) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    command = [sys.executable, "-c", PROGRAM, device, str(COUNT)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=7200)
    assert done.returncode == 0
    held = json.loads(done.stdout)
    before, after = max(held[:SETTLED]), max(held[SETTLED:])
    print(f"{device}: {before / 1e6:.0f} MB in {SETTLED} videos, {after / 1e6:.0f} in {COUNT}")
    assert len(held) == COUNT
    assert after <= 1.05 * before
