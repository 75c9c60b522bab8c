"""Where stages run: requests are met or refused, and the choice is reported."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices import plugins
from hummingbird_edge.runtime.devices.backend import Backend, backends, parse_by_stage
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.engines.onnxruntime import ONNXRuntimeSession
from hummingbird_edge.runtime.errors import DeviceError, RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement.planner import Planner
from hummingbird_edge.runtime.request import Request

Command = Callable[..., "subprocess.CompletedProcess[str]"]
STAGES = ("text_encoder", "unet", "vae_decoder")


def test_one_name_is_for_every_stage_and_a_list_for_some() -> None:
    assert parse_by_stage("device", "cpu") == dict.fromkeys(STAGES, "cpu")
    found = parse_by_stage("device", "unet=openvino:GPU, vae=cpu")
    assert found == {"text_encoder": "auto", "unet": "openvino:GPU", "vae_decoder": "cpu"}


@pytest.mark.parametrize("text", ["unet=", "=cpu", "engine=cpu", "unet=cpu,vae", "unet=cpu,,"])
def test_lists_that_do_not_parse_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="STAGE=NAME"):
        parse_by_stage("device", text)


def test_precisions_are_what_the_device_has() -> None:
    assert [str(backend) for backend in backends("unet", "cpu", "auto")] == ["cpu fp32"]
    with pytest.raises(DeviceError, match="cpu cannot compute unet in bf16"):
        backends("unet", "cpu", "bf16")
    with pytest.raises(RequestError, match="no precision 'fp8'"):
        backends("unet", "cpu", "fp8")


@pytest.mark.parametrize("name", ["dml:1", "migraphx:1", "rocm:1"])
def test_a_second_adapter_has_the_graph_and_options_of_its_family(
    name: str, tmp_path: Path
) -> None:
    device, session = Device.parse(name), object.__new__(ONNXRuntimeSession)
    assert (device.family, device.adapter) == (name[:-2], 1)
    session.backend = Backend(device)
    graph, cache, notes = tmp_path / "unet" / "model.onnx", CompileCache(tmp_path), list[str]()
    options = session._options(graph, {"frames": 2}, cache, notes.append)
    assert options.pop("device_id") == "1"
    assert list(options) == ["migraphx_model_cache_dir"] * (device.family == "migraphx")
    assert len(notes) == len(options)


@pytest.mark.parametrize("name", ["cpu:1", "webgpu:1", "dml:", "dml:x", "winml:CPU", "winml:1"])
def test_adapters_are_for_devices_that_have_them(name: str) -> None:
    with pytest.raises(RequestError, match="there is no device called"):
        Device.parse(name)


def _ep_device(provider: str, kind: str) -> SimpleNamespace:
    hardware = SimpleNamespace(type=f"OrtHardwareDeviceType.{kind}")
    return SimpleNamespace(ep_name=provider, ep_metadata={}, device=hardware)


def test_a_catalogues_npu_can_be_named_beside_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    npu, gpu, cpu = (
        _ep_device("NpuProvider", "NPU"),
        _ep_device("GpuProvider", "GPU"),
        _ep_device("CPUExecutionProvider", "CPU"),
    )
    registered: list[str] = []
    fake = SimpleNamespace(
        register_execution_provider_library=lambda name, path: registered.append(name),
        get_ep_devices=lambda: [cpu, npu, gpu],
    )
    monkeypatch.setattr(plugins, "import_onnxruntime", lambda: fake)
    catalogue = ("windowsml", lambda: iter([("NpuProvider", "n.dll"), ("GpuProvider", "g.dll")]))
    monkeypatch.setattr(plugins, "PLUGINS", {"winml": catalogue})
    plugins._all_devices.cache_clear()
    try:
        for name, expected in (("winml", gpu), ("winml:NPU", npu), ("winml:GPU", gpu)):
            device = Device.parse(name)
            assert plugins.plugin_devices(device.family, device.kind) == (expected,)
        assert registered == ["NpuProvider", "GpuProvider"]  # a second time would fail
        with pytest.raises(DeviceError, match="windowsml is installed and finds no CPU for winml"):
            plugins.plugin_devices("winml", "CPU")
    finally:
        plugins._all_devices.cache_clear()


def test_openvino_computes_as_it_is_told(nano_bundle: Path) -> None:
    pytest.importorskip("openvino")
    exact, *rest = backends("unet", "openvino", "fp32")
    assert (str(exact), rest) == ("openvino fp32", [])
    if "bf16" not in exact.device.precisions():
        pytest.skip("this CPU has no bfloat16")
    assert str(backends("unet", "openvino", "auto")[0]) == "openvino bf16"
    assert str(backends("text_encoder", "openvino", "auto")[0]) == "openvino fp32"
    args: dict[str, Any] = {"frames": 2, "width": 32, "height": 32, "steps": 2}
    latents = [
        TextToVideo.from_bundle(nano_bundle, device=device, precision=precision)(
            "a red cat", **args
        ).latents
        for device, precision in (("cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
    ]
    power = float(np.square(latents[0]).mean())
    snr = [10 * np.log10(power / np.square(x - latents[0]).mean()) for x in latents[1:]]
    assert snr[0] > 60
    assert 15 < snr[1] < 60  # less precise, and not by accident the same


@pytest.mark.parametrize("engine", ["cpu", "openvino"])
def test_fixed_sizes_give_what_free_ones_give(nano_bundle: Path, engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    graph, backend = nano_bundle / "vae_decoder" / "model.onnx", Backend.parse(engine)
    z = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(np.float32)
    sizes = {"frames": 2, "height": 3, "width": 5}
    free, fixed = open_session(graph, backend), open_session(graph, backend, sizes)
    np.testing.assert_allclose(
        free.run({"latent_sample": z}), fixed.run({"latent_sample": z}), atol=1e-4
    )
    with pytest.raises(DeviceError, match="failed while computing"):
        fixed.run({"latent_sample": z[:1]})


def test_stages_run_where_they_are_asked_to(hb: Command, nano_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    done = hb(
        "hb-run", "a red cat", "-o", tmp_path / "out.webp", "--bundle", nano_bundle, "--json",
        "--size", "32x32", "--frames", "3", "--steps", "1", "--verbose",
        "--device", "unet=cpu,vae=openvino,text=cpu", "--precision", "vae=fp32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert {name: entry["device"] for name, entry in stages.items()} == {
        "text_encoder": "cpu",
        "unet": "cpu",
        "vae_decoder": "openvino",
    }
    assert stages["vae_decoder"] == {
        "device": "openvino",
        "precision": "fp32",
        "share_on_device": 1.0,
        "why": "requested",
        "psnr_db": None,
        "tiles": 1,
    }
    assert "unet: cpu fp32 (requested, 100 % of the nodes there)" in done.stderr


def test_compiled_models_are_kept(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path))
    for _ in range(2):
        pipeline = TextToVideo.from_bundle(nano_bundle, device="openvino", precision="fp32")
        pipeline("a red cat", frames=2, width=32, height=32, steps=1)
        blobs = sorted((tmp_path / "compiled").rglob("*.blob"))
        assert len(blobs) == 3
    # What was compiled for one precision must not be taken for another.
    if "bf16" in Device.parse("openvino").precisions():
        pipeline = TextToVideo.from_bundle(nano_bundle, device="openvino", precision="bf16")
        assert np.isfinite(
            pipeline("a red cat", frames=2, width=32, height=32, steps=1).latents
        ).all()


@pytest.mark.parametrize(("side", "device"), [(64, "cpu"), (512, "openvino")])
def test_a_cpu_compiles_for_what_takes_long(side: int, device: str) -> None:
    """OpenVINO's seconds of compiling pay for large videos alone."""
    pytest.importorskip("openvino")
    manifest = Bundle.open(BUILTIN).manifest
    sizes = Request.for_model(manifest, "a cat", 7, width=side, height=side).stage_sizes(manifest)
    plan = Planner(Bundle.open(BUILTIN)).plan(sizes)
    chosen = {placements[0].backend.device.name for placements in plan.placements.values()}
    assert chosen == {device}
