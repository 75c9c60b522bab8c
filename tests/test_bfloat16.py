"""Graphs turned to bfloat16: the rounding, and the numbers of a real stage."""

from pathlib import Path

import numpy as np
import pytest

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.engines.bfloat16 import upper_halves
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.placement.trial import example_inputs, snr_db


def test_rounding_is_to_nearest_even() -> None:
    torch = pytest.importorskip("torch")
    numbers = np.random.default_rng(0).standard_normal((3, 1000), np.float32)
    numbers[0, :4] = [1 + 2**-8, 1 + 3 * 2**-8, -0.0, 1e-40]  # ties, a zero, a subnormal
    truth = torch.from_numpy(numbers).bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(upper_halves(numbers), truth)
    assert upper_halves(np.array([[2.0]], np.float32)).shape == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["unet", "vae_decoder", "text_encoder"])
def test_a_stage_keeps_its_numbers(stage: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    device = Device.parse("openvino")
    if "bf16" not in device.precisions():
        pytest.skip("this processor has no bfloat16")
    bundle = Bundle.open(BUILTIN)
    sizes = {"batch": 1} if stage == "text_encoder" else {"frames": 8, "height": 8, "width": 8}
    inputs = example_inputs(bundle.manifest, stage, sizes)
    graph = bundle.graph(stage)
    truth = open_session(graph, Backend(device), sizes).run(inputs)
    notes: list[str] = []
    narrow, cache = Backend(device, Precision.BF16), CompileCache(tmp_path)
    for _ in range(2):  # compiled, then mapped from the file
        session = open_session(graph, narrow, sizes, cache, notes.append)
        assert snr_db(session.run(inputs), truth) > 25
        assert snr_db(session.run(inputs), truth) > 25
    assert len(notes) == 1
    assert "once for this size" in notes[0]
    (blob,) = tmp_path.glob("*.blob")
    blob.write_bytes(b"damaged")
    again = open_session(graph, narrow, sizes, cache, notes.append)
    assert snr_db(again.run(inputs), truth) > 25
    assert len(notes) == 2


def test_a_file_that_vanishes_leaves_the_cache_working(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another process may remove a compiled model between listing and looking."""
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path))
    gone = tmp_path / "compiled" / "gone.blob"
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: iter([gone]))
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    assert CompileCache.of_bundle("0" * 64) is not None
