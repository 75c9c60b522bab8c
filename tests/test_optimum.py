"""A bundle's graphs open in optimum's ONNX Runtime classes and give the same numbers there.

optimum wants a `config.json` beside each graph, which bundles do not have: the copies that these
tests open get one with the entries that its two classes read.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.tokenizer import Tokenizer

ATOL = 1e-4
"""Largest difference of two outputs; both are ONNX Runtime's, with other settings."""

# One of diffusers' pipelines is compiled by TorchScript when it is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)


@pytest.fixture(scope="session")
def optimum() -> None:
    """Skip what needs optimum where it is not installed, before a bundle is exported for it."""
    pytest.importorskip("optimum.onnxruntime")
    pytest.importorskip("diffusers")


@pytest.fixture
def bundle(optimum: None, nano_bundle: Path, tmp_path: Path) -> Bundle:
    """Copy the nano bundle, with the configurations that optimum reads."""
    shutil.copytree(nano_bundle, tmp_path / "nano")
    opened = Bundle.open(tmp_path / "nano")
    model = opened.manifest.model
    text = {"model_type": "clip_text_model", "hidden_size": model.context_width}
    scaling = {"_class_name": "AutoencoderKL", "scaling_factor": model.scaling_factor}
    for stage, entries in (("text_encoder", text), ("vae_decoder", scaling)):
        (opened.folder / stage / "config.json").write_text(json.dumps(entries), encoding="utf-8")
    return opened


def ours(bundle: Bundle, stage: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Run a stage in this runtime."""
    return open_session(bundle.graph(stage), Backend.parse("cpu")).run(inputs)


def test_the_text_encoder_in_optimum(bundle: Bundle) -> None:
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    tokenizer = Tokenizer(bundle.folder / "tokenizer", bundle.manifest.model.context_length)
    input_ids = np.array([tokenizer(prompt).ids for prompt in ("a cat DJ at a party", "")])
    model = ORTModelForFeatureExtraction.from_pretrained(
        bundle.folder / "text_encoder", file_name="model.onnx"
    )
    found = model(input_ids=input_ids).last_hidden_state
    expected = ours(bundle, "text_encoder", {"input_ids": input_ids})
    assert found.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


def test_the_decoder_in_optimum(bundle: Bundle) -> None:
    from onnxruntime import InferenceSession
    from optimum.onnxruntime.modeling_diffusion import ORTVae, ORTVaeDecoder

    shape = (2, bundle.manifest.model.latent_channels, 6, 10)
    latents = np.random.default_rng(0).standard_normal(shape, np.float32)
    graph = bundle.folder / "vae_decoder" / "model.onnx"
    session = InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    vae = ORTVae(decoder=ORTVaeDecoder(session, None))
    found = vae.decode(latent_sample=latents).sample
    expected = ours(bundle, "vae_decoder", {"latent_sample": latents})
    assert vae.config.scaling_factor == bundle.manifest.model.scaling_factor
    assert found.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)
