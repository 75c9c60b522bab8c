"""One stage with random weights, in PyTorch, in other projects' tools and in this runtime."""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hummingbird_edge.benchmarks.lib.quantizers import nncf_quantize
from hummingbird_edge.benchmarks.lib.recording import Inputs
from hummingbird_edge.benchmarks.lib.stage_inputs import read_inputs
from hummingbird_edge.benchmarks.lib.timing import Run
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.packages import import_onnxruntime, import_openvino
from hummingbird_edge.runtime.engines.loading import open_stage
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EAGER", "LOADERS", "PREPARATIONS", "THIS_RUNTIME", "PeerStage"]

EAGER, THIS_RUNTIME = "PyTorch eager fp32", "this runtime"
_TORCHAO = "torchao int8, Inductor"
_EXPORT, _OPTIMUM = "plain export, ONNX Runtime", "optimum int8, ONNX Runtime"
_NNCF = "NNCF int8, OpenVINO"


@dataclass(frozen=True, slots=True)
class PeerStage:
    """One stage in one tool."""

    tool: str
    """A key of `LOADERS`."""
    bundle: Path
    stage: str
    sizes: Mapping[str, int]
    runs: int
    """Timed runs."""
    folder: Path
    """For inputs, exported models and outputs."""
    shape: str
    """Of the video, in words."""
    backend: Backend | None = None
    """Of this runtime alone."""
    title: str = ""
    """For the row's name, where it is not the tool's."""

    @property
    def name(self) -> str:
        """The row's name."""
        unit = "a frame of " if self.stage.endswith("decoder") else ""
        return f"{unit}{self.stage}, {self.shape}: {self.title or self.tool}"

    @property
    def exported(self) -> Path:
        """The graph of the plain export."""
        return self.folder / f"plain-{self.stage}" / "model.onnx"

    @property
    def torchao_program(self) -> Path:
        """The program that torchao quantized."""
        return self.folder / f"torchao-{self.stage}.pt2"

    @property
    def optimum_folder(self) -> Path:
        """The folder that optimum writes."""
        return self.folder / f"optimum-{self.stage}"

    @property
    def nncf_model(self) -> Path:
        """The OpenVINO model that NNCF quantized."""
        return self.folder / f"nncf-{self.stage}.xml"

    @property
    def reference(self) -> Path:
        """The output of PyTorch eager."""
        return self.folder / f"{self.stage}.npy"

    def inputs(self) -> Inputs:
        """Return the inputs that all tools get."""
        return read_inputs(self.folder, self.stage)[0]

    def require_export(self) -> Path:
        """Return the graph of the plain export; raises RequestError where that failed."""
        if not self.exported.exists():
            raise RequestError("the plain export failed, see its row")
        return self.exported


def _random_module(task: PeerStage) -> "nn.Module":
    from hummingbird_edge.benchmarks.lib.eager import config_of, random_module

    return random_module(config_of(Bundle.open(task.bundle)), task.stage)


def load_eager(task: PeerStage) -> Run:
    """Load the module itself."""
    from hummingbird_edge.benchmarks.lib.eager import eager_run

    return eager_run(_random_module(task), task.inputs())


def load_autocast(task: PeerStage) -> Run:
    """Load the module itself, to run in bfloat16 by autocast."""
    from hummingbird_edge.benchmarks.lib.torch_peers import autocast_run

    return autocast_run(_random_module(task), task.inputs())


def load_torch_compile(task: PeerStage) -> Run:
    """Load the module through torch.compile, with its defaults and an empty cache."""
    _empty_inductor_cache(task)
    from hummingbird_edge.benchmarks.lib.torch_peers import compiled_run

    return compiled_run(_random_module(task), task.inputs())


def load_autotuned(task: PeerStage) -> Run:
    """Load the module through torch.compile in bfloat16, tuned, with an empty cache."""
    _empty_inductor_cache(task)
    from hummingbird_edge.benchmarks.lib.torch_peers import autotuned_run

    return autotuned_run(_random_module(task), task.inputs())


def load_torchao(task: PeerStage) -> Run:
    """Load what torchao quantized, through torch.compile with an empty cache."""
    if not task.torchao_program.exists():
        raise RequestError("torchao wrote nothing, see its row")
    _empty_inductor_cache(task)
    from hummingbird_edge.benchmarks.lib.torch_peers import quantized_run

    return quantized_run(task.torchao_program, task.inputs())


def load_onnxruntime(task: PeerStage) -> Run:
    """Load the plain export in ONNX Runtime, on the CPU with its defaults."""
    return _onnxruntime_run(task.require_export(), task)


def load_openvino(task: PeerStage) -> Run:
    """Load the plain export in OpenVINO with its defaults, which may choose bfloat16."""
    return _openvino_run(task.require_export(), task)


def load_optimum(task: PeerStage) -> Run:
    """Load what optimum quantized, in ONNX Runtime."""
    written = sorted(task.optimum_folder.glob("*.onnx"))
    if not written:
        raise RequestError("optimum wrote nothing, see its row")
    return _onnxruntime_run(written[0], task)


def load_nncf(task: PeerStage) -> Run:
    """Load what NNCF quantized, in OpenVINO."""
    if not task.nncf_model.exists():
        raise RequestError("NNCF wrote nothing, see its row")
    return _openvino_run(task.nncf_model, task)


def load_this_runtime(task: PeerStage) -> Run:
    """Load the bundle's graph as `hb-run` does."""
    bundle, backend = Bundle.open(task.bundle), task.backend
    assert backend is not None  # `peers.py` sets it for this tool
    session, inputs = open_stage(bundle, task.stage, backend, task.sizes), task.inputs()
    return lambda: session.run(inputs)


def export_plain(task: PeerStage) -> None:
    """Export the module by `torch.onnx.export` with fixed sizes and its defaults."""
    import torch

    from hummingbird_edge.benchmarks.lib.eager import inputs_for

    module = _random_module(task)
    inputs = inputs_for(module, task.inputs())
    task.exported.parent.mkdir()
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            module, (), str(task.exported), kwargs=inputs, input_names=list(inputs),
            dynamo=True, external_data=True,
        )  # fmt: skip


def quantize_by_torchao(task: PeerStage) -> None:
    """Quantize the module by torchao's defaults for x86, on inputs that no row is judged on."""
    from hummingbird_edge.benchmarks.lib.torch_peers import quantize

    calibration = read_inputs(task.folder, task.stage)[1:]
    quantize(_random_module(task), calibration, task.torchao_program)


def quantize_by_optimum(task: PeerStage) -> None:
    """Quantize the plain export by optimum's ORTQuantizer, its preset for AVX-512 VNNI."""
    graph = task.require_export()
    import_onnxruntime()
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    quantizer = ORTQuantizer.from_pretrained(str(graph.parent), file_name=graph.name)
    quantizer.quantize(
        save_dir=str(task.optimum_folder),
        quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False),
        use_external_data_format=True,
    )


def quantize_by_nncf(task: PeerStage) -> None:
    """Quantize the plain export by NNCF's defaults, on inputs that no row is judged on."""
    openvino = import_openvino()
    model = openvino.Core().read_model(str(task.require_export()))
    quantized = nncf_quantize(model, read_inputs(task.folder, task.stage)[1:])
    openvino.save_model(quantized, str(task.nncf_model), compress_to_fp16=False)


LOADERS: Mapping[str, Callable[[PeerStage], Run]] = {
    EAGER: load_eager,
    "PyTorch bf16 autocast": load_autocast,
    "torch.compile fp32": load_torch_compile,
    "torch.compile bf16, max-autotune": load_autotuned,
    _TORCHAO: load_torchao,
    _EXPORT: load_onnxruntime,
    "plain export, OpenVINO": load_openvino,
    _OPTIMUM: load_optimum,
    _NNCF: load_nncf,
    THIS_RUNTIME: load_this_runtime,
}
PREPARATIONS: Mapping[str, tuple[str, Callable[[PeerStage], None]]] = {
    _TORCHAO: ("torchao quantizing", quantize_by_torchao),
    _EXPORT: ("torch.onnx.export", export_plain),
    _OPTIMUM: ("optimum quantizing", quantize_by_optimum),
    _NNCF: ("NNCF quantizing", quantize_by_nncf),
}
"""By tool, the title and the function of what must run before its loader."""


def _empty_inductor_cache(task: PeerStage) -> None:
    """Give this process's compiler an empty cache; before PyTorch is imported."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(dir=task.folder)


def _onnxruntime_run(graph: Path, task: PeerStage) -> Run:
    onnxruntime = import_onnxruntime()
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    inputs = _inputs_named(task, {entry.name for entry in session.get_inputs()})
    return lambda: np.asarray(session.run(None, inputs)[0])


def _openvino_run(graph: Path, task: PeerStage) -> Run:
    core = import_openvino().Core()
    compiled: Any = core.compile_model(core.read_model(str(graph)), "CPU")
    inputs = _inputs_named(task, {port.any_name for port in compiled.inputs})
    return lambda: np.array(compiled(inputs)[0])


def _inputs_named(task: PeerStage, names: set[str]) -> Inputs:
    return {name: x for name, x in task.inputs().items() if name in names}
