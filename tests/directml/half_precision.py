"""Write the built-in bundle with graphs whose weights and activations are float16.

python half_precision.py FOLDER DEVICE        (the graphs that DEVICE would run)
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hummingbird_edge.runtime.bundle import BUILTIN, Bundle, sha256_of
from hummingbird_edge.runtime.manifest import MANIFEST
from hummingbird_edge.runtime.placement import STAGE_NAMES

LARGEST = float(np.finfo(np.float16).max)


def write_bundle(folder: Path, device: str) -> None:
    """Write `folder`, the built-in bundle with the graphs of `device` in float16."""
    bundle = Bundle.open(BUILTIN)
    shutil.copytree(BUILTIN, folder)
    entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for stage in STAGE_NAMES.values():
        name = bundle.manifest.graph(stage, device)
        path = folder / name
        onnx.save(to_half(onnx.load(path)), path)
        entries["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / MANIFEST).write_text(json.dumps(entries), encoding="utf-8")


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with float32 inputs and output, and float16 between them.

    Angles of the embeddings stay float32 up to their sine: at timestep 999 float16 has steps of a
    half.
    """
    graph = model.graph
    exact = _leading_to(graph, {"Sin", "Cos"})
    weights = {weight.name: weight for weight in graph.initializer}
    weights["numbers"] = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "numbers")
    counts = {value.name for value in graph.input if value.name in ("timestep", "fps")}
    halves = {value.name: f"{value.name}_half" for value in graph.input if _is_float(value)}
    results = {value.name: f"{value.name}_half" for value in graph.output}
    nodes = [_cast(name, half, TensorProto.FLOAT16) for name, half in halves.items()]
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in counts:
            # Wine's Direct3D has no 64-bit integers to cast: look the number up instead.
            node = helper.make_node("Gather", ["numbers", *node.input], node.output, node.name)
        nodes.append(node)
        if node.output[0] in exact:
            if node.op_type in ("Sin", "Cos"):
                halves[node.output[0]] = f"{node.output[0]}_half"
                nodes.append(_cast(node.output[0], halves[node.output[0]], TensorProto.FLOAT16))
            continue
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        # Resize takes its scales in float32, whatever the precision of the rest.
        convertible = node.input[:1] if node.op_type == "Resize" else node.input
        for place, name in enumerate(convertible):
            if name in weights and weights[name].data_type == TensorProto.FLOAT:
                halves[name] = f"{name}_half"
            node.input[place] = halves.get(name, name)
        for place, name in enumerate(node.output):
            node.output[place] = results.get(name, name)
    nodes += [_cast(half, name, TensorProto.FLOAT) for name, half in results.items()]
    narrow = [_narrowed(weights[name], halves[name]) for name in halves if name in weights]
    used = {name for node in nodes for name in node.input}
    stored = [weight for weight in [*weights.values(), *narrow] if weight.name in used]
    for field, entries in ((graph.node, nodes), (graph.initializer, stored)):
        kept = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
        del field[:]
        field.extend(kept)
    del graph.value_info[:]
    return model


def _leading_to(graph: onnx.GraphProto, kinds: set[str]) -> set[str]:
    """Return the outputs of nodes of `kinds`, and of all nodes that they depend on."""
    made = {name: node for node in graph.node for name in node.output}
    found = set[str]()
    pending = [name for node in graph.node if node.op_type in kinds for name in node.output]
    while pending:
        name = pending.pop()
        if name in made and name not in found:
            found.update(made[name].output)
            pending += made[name].input
    return found


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == TensorProto.FLOAT


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"to_{target}", to=to)


def _narrowed(weight: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = np.clip(numpy_helper.to_array(weight), -LARGEST, LARGEST)
    return numpy_helper.from_array(values.astype(np.float16), name)


if __name__ == "__main__":
    write_bundle(Path(sys.argv[1]), sys.argv[2])
