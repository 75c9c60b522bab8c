"""From a PyTorch module to an ONNX graph with external weights and free axes."""

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import onnx
import onnx_ir
import torch
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from hummingbird_edge.export.stage import Stage
from hummingbird_edge.kernels.upsample_conv import join_crops
from hummingbird_edge.quantize.bundle_folder import GRAPH, WEIGHTS
from hummingbird_edge.runtime.devices.resident import return_freed
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["OPSETS", "export_graph", "for_export", "release_weights", "save_graph"]

OPSETS = range(18, 22)
"""DirectML registers no operator above 21; PyTorch's exporter begins at 18."""
_RULES = "_DEFAULT_REWRITE_RULES"
"""Of onnxscript's rewriter, as its optimizer reads them; another version may have none."""


class Exportable(Protocol):
    """A layer with another form for graphs."""

    def for_export(self) -> nn.Module:
        """Return that form, sharing the layer's memory."""
        ...


def for_export(module: nn.Module) -> nn.Module:
    """Swap in place every layer that has a form for graphs; returns `module`."""
    for name, child in module.named_children():
        if hasattr(child, "for_export"):
            setattr(module, name, cast("Exportable", child).for_export())
        else:
            for_export(child)
    return module


def export_graph(
    module: nn.Module, stage: Stage, inputs: Mapping[str, torch.Tensor], opset: int
) -> onnx_ir.Model:
    """Trace `module` with `inputs`, leaving the stage's axes free; no weight is copied.

    Swaps layers of `module` for their forms in graphs, in place.

    Raises RequestError for an opset outside `OPSETS`.
    """
    if opset not in OPSETS:
        raise RequestError(f"opset {opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]}")
    free = {
        name: dict.fromkeys(stage.axes[name], torch.export.Dim.DYNAMIC) or None for name in inputs
    }
    with torch.no_grad(), _quiet(), _without_quadratic_rules(), _with_known_operators():
        program = torch.onnx.export(
            for_export(module).eval(),
            (),
            kwargs=dict(inputs),
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=[stage.output, *stage.more_outputs],
            dynamic_shapes=free,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model
    model.producer_name, model.producer_version = "hummingbird-edge", None
    _name_axes(model, stage)
    _strip(model)
    _reshape_without_zeros(model)
    join_crops(model)
    return model


@contextlib.contextmanager
def _without_quadratic_rules() -> Iterator[None]:
    """Leave out onnxscript's rewrites that end in several nodes while PyTorch's exporter runs.

    For each node of a graph these look at all of its nodes: a third of an export's time. The only
    one, of two Slices into a Split, finds nothing in these networks (onnxscript 0.7).
    """
    from onnxscript import rewriter

    rules: Any = getattr(rewriter, _RULES, ())
    try:
        if rules:
            setattr(rewriter, _RULES, tuple(filter(_is_linear, rules)))
        yield
    finally:
        if rules:
            setattr(rewriter, _RULES, rules)


@contextlib.contextmanager
def _with_known_operators() -> Iterator[None]:
    """Let PyTorch's exporter read its table of operators once in a process, not once a graph.

    It takes half a second each time, a quarter of a small graph's export (PyTorch 2.13).
    """
    own = vars(ONNXRegistry)[_READ]
    setattr(ONNXRegistry, _READ, staticmethod(_operators))
    try:
        yield
    finally:
        setattr(ONNXRegistry, _READ, own)


_READ = "from_torchlib"
_operators = functools.cache(ONNXRegistry.from_torchlib)
"""Reads the table of an opset; no export changes it."""


def _is_linear(rule: object) -> bool:
    pattern = getattr(rule, "_target_pattern", None)
    return getattr(pattern, "has_single_output_node", True)


def save_graph(model: onnx_ir.Model, folder: Path) -> None:
    """Write `model.onnx` and `model.onnx_data` into `folder` and check them with onnx.checker."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / GRAPH
    onnx_ir.save(model, path, external_data=WEIGHTS, size_threshold_bytes=256)
    onnx.checker.check_model(str(path), full_check=False)


def release_weights(model: onnx_ir.Model, module: nn.Module) -> None:
    """Free the memory of both, neither of which can be used afterwards.

    onnxscript's rewrite rules keep what they matched last until the next export: at full size 4 GB.
    """
    for value in model.graph.initializers.values():
        value.const_value = None
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = torch.empty(0)
    return_freed()


def _name_axes(model: onnx_ir.Model, stage: Stage) -> None:
    """Give free axes the names by which a session fixes them, instead of traced symbols."""
    for value in model.graph.inputs:
        assert value.name is not None
        assert value.shape is not None
        for axis, name in stage.axes[value.name].items():
            value.shape[axis] = name
    named = {stage.output: stage.output_axes, **stage.more_outputs}
    for output in model.graph.outputs:
        assert output.name is not None
        assert output.shape is not None
        for axis, size in enumerate(output.shape):
            if not isinstance(size, int):
                output.shape[axis] = named[output.name].get(axis, f"{output.name}_{axis}")


def _reshape_without_zeros(model: onnx_ir.Model) -> None:
    """Drop `allowzero`, which tells of axes without elements: there are none here.

    DirectML refuses a Reshape with it where the shape leaves an axis open (ONNX Runtime 1.24).
    """
    for node in model.graph.all_nodes():
        if node.op_type == "Reshape":
            node.attributes.pop("allowzero", None)


def _strip(model: onnx_ir.Model) -> None:
    """Drop traces of the exporter: source paths of this machine, symbols that mean nothing."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    boundary = {*model.graph.inputs, *model.graph.outputs}
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in boundary:
                value.shape = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: notes on folding by the thousand, deprecations inside PyTorch."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
