"""Other ways of PyTorch's to run a module on a CPU: autocast, `torch.compile`, torchao's int8."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hummingbird_edge.benchmarks.lib.eager import eager_run, inputs_for
from hummingbird_edge.benchmarks.lib.recording import Inputs
from hummingbird_edge.benchmarks.lib.timing import Run
from hummingbird_edge.runtime.engines.saturation import saturates

__all__ = ["autocast_run", "autotuned_run", "compiled_run", "quantize", "quantized_run"]


def autocast_run(module: nn.Module, inputs: Inputs) -> Run:
    """Run in bfloat16 by autocast, eager."""
    return eager_run(module, inputs, torch.bfloat16)


def compiled_run(module: nn.Module, inputs: Inputs) -> Run:
    """Run in float32 through torch.compile, with its defaults."""
    return eager_run(_compiled(module), inputs)


def autotuned_run(module: nn.Module, inputs: Inputs) -> Run:
    """Run in bfloat16 through torch.compile: weights frozen, kernels chosen by measuring."""
    _freeze()
    return eager_run(_compiled(module, mode="max-autotune"), inputs, torch.bfloat16)


def quantize(module: nn.Module, calibration: Sequence[Inputs], path: Path) -> None:
    """Write `module` in int8: PT2E static quantization for x86, by torchao's defaults.

    Where products of 8 bits saturate, activations keep 7, as its documentation advises.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    rows = [inputs_for(module, row) for row in calibration]
    config = get_default_x86_inductor_quantization_config(reduce_range=saturates())
    with torch.no_grad():
        exported = torch.export.export(module, (), kwargs=rows[0]).module()
        prepared = prepare_pt2e(exported, X86InductorQuantizer().set_global(config))
        for row in rows:
            prepared(**row)
        quantized = convert_pt2e(prepared)
        torch.export.save(torch.export.export(quantized, (), kwargs=rows[0]), path)


def quantized_run(path: Path, inputs: Inputs) -> Run:
    """Run what `quantize` wrote through torch.compile and its int8 kernels."""
    # Gives Inductor its passes for quantized operators, and the program its operators.
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401

    _freeze()
    program = torch.export.load(path)
    names = program.graph_signature.user_inputs
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items() if name in names}
    compiled = torch.compile(program.module())

    def run() -> NDArray[np.float32]:
        with torch.no_grad():
            output: NDArray[np.float32] = compiled(**tensors).numpy()
        return output

    return run


def _compiled(module: nn.Module, mode: str | None = None) -> nn.Module:
    compiled: nn.Module = torch.compile(module, mode=mode)  # type: ignore[assignment]
    return compiled


def _freeze() -> None:
    """Let this process's compiler treat weights as constants, as inference on CPUs needs."""
    import torch._inductor.config as inductor

    inductor.freezing = True
