"""Other projects' quantizers on the networks of a bundle: NNCF and ONNX Runtime."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.recording import Inputs, Network
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.packages import import_onnxruntime, import_openvino
from hummingbird_edge.runtime.engines.loading import open_session

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Calibration", "nncf_networks", "nncf_quantize", "onnxruntime_networks"]

Calibration = Mapping[str, list[Inputs]]
"""Stage to the inputs that a quantizer may see."""


def nncf_quantize(model: Any, inputs: list[Inputs], **options: Any) -> Any:
    """Quantize an OpenVINO model by NNCF's defaults and these options; return the new model."""
    import nncf

    nncf.set_log_level("ERROR")
    names = {port.any_name for port in model.inputs}
    rows = [{name: x for name, x in row.items() if name in names} for row in inputs]
    return nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows), **options)


def nncf_networks(
    bundle: Bundle, calibration: Calibration, for_transformers: bool
) -> list[Network]:
    """Quantize each stage of `calibration` by NNCF, compiled as the runtime compiles."""
    openvino = import_openvino()
    import nncf

    core = openvino.Core()
    options = {"model_type": nncf.ModelType.TRANSFORMER} if for_transformers else {}
    default = Device.parse("openvino").precisions()[0]
    hint = {"INFERENCE_PRECISION_HINT": getattr(openvino.Type, default.openvino)}

    def network(stage: str, inputs: list[Inputs]) -> Network:
        model = core.read_model(str(bundle.graph(stage)))
        model.reshape({port.any_name: inputs[0][port.any_name].shape for port in model.inputs})
        compiled = core.compile_model(nncf_quantize(model, inputs, **options), "CPU", hint)
        names = [port.any_name for port in model.inputs]

        def run(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
            return np.array(compiled({name: inputs[name] for name in names})[0])

        return run

    return [network(stage, inputs) for stage, inputs in calibration.items()]


def onnxruntime_networks(
    bundle: Bundle, calibration: Calibration, folder: Path, **options: Any
) -> list[Network]:
    """Quantize each stage of `calibration` by ONNX Runtime's static quantizer."""
    import_onnxruntime()
    import onnx_ir as ir
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, rows: Iterator[Inputs]) -> None:
            self.rows = rows

        def get_next(self) -> Inputs | None:
            return next(self.rows, None)

    def network(stage: str, inputs: list[Inputs]) -> Network:
        names = [f"{stage}-{kind}.onnx" for kind in ("float32", "prepared", "int8")]
        float32, prepared, quantized = (folder / name for name in names)
        ir.save(_widen(ir.load(bundle.graph(stage))), float32)
        quant_pre_process(
            str(float32), str(prepared), skip_symbolic_shape=True, skip_optimization=True
        )
        known = {value.name for value in ir.load(prepared).graph.inputs}
        rows = ({name: row[name] for name in row if name in known} for row in inputs)
        quantize_static(str(prepared), str(quantized), Reader(rows), **options)
        return open_session(quantized, Backend.parse("cpu")).run

    return [network(stage, inputs) for stage, inputs in calibration.items()]


def _widen(model: "ir.Model") -> "ir.Model":
    """Return `model` with its weights inside the graph, those stored in float16 as float32."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    for node in list(model.graph):
        stored = node.inputs[0].const_value if node.op_type == "Cast" and node.inputs[0] else None
        if stored is None or stored.dtype != ir.DataType.FLOAT16:
            continue
        name = str(node.outputs[0].name)
        value = ir.val(name, const_value=ir.tensor(stored.numpy().astype(np.float32), name=name))
        model.graph.register_initializer(value)
        node.outputs[0].name = f"{name}_before"
        node.outputs[0].replace_all_uses_with(value)
    RemoveUnusedNodesPass()(model)
    return model
