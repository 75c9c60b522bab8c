"""Checkpoints are read where they lie, from every format they are published in."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hummingbird_edge.export.checkpoint import Checkpoint, load_strict, read_checkpoint
from hummingbird_edge.runtime.errors import CheckpointError, HubError

NANO = Path(__file__).parent / "data" / "nano_07b_merged_all.pt"
STAGES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.model.")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def nano() -> Checkpoint:
    return read_checkpoint(NANO)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {
        "stage.weight": torch.arange(6.0).reshape(2, 3),
        "stage.bias": torch.ones(2, dtype=torch.float16),
        "other.count": torch.tensor(7),
        "other.strided": torch.arange(12.0).reshape(3, 4).T[1:],
        "other.empty": torch.empty(0, 3),
    }


def _assert_same(checkpoint: Checkpoint, weights: dict[str, torch.Tensor]) -> None:
    assert set(checkpoint.tensors) == set(weights)
    for name, tensor in weights.items():
        torch.testing.assert_close(checkpoint.tensors[name], tensor, rtol=0, atol=0)


def _rewritten(path: Path, replaced: dict[str, bytes], compression: int = 0) -> Path:
    """Copy a torch archive with some of its records replaced."""
    out = path.with_name("rewritten.pt")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w", compression) as target:
        for name in source.namelist():
            base = name.partition("/")[2]
            target.writestr(name, replaced.get(base, source.read(name)))
    return out


def test_whole_module_has_every_stage(nano: Checkpoint) -> None:
    assert nano.source == NANO.name
    assert len(nano.tensors) == 762
    for stage in STAGES:
        assert any(name.startswith(stage) for name in nano.tensors)
    assert "betas" in nano.tensors
    assert "lvlb_weights" not in nano.tensors  # a buffer that is not persistent
    assert nano.tensors["cond_stage_model.model.token_embedding.weight"].shape == (49408, 16)
    assert nano.tensors["model.diffusion_model.time_embed.0.weight"].shape == (128, 32)
    assert nano.sha256() == hashlib.sha256(NANO.read_bytes()).hexdigest()


def test_whole_module_tensor_is_its_record(nano: Checkpoint) -> None:
    with zipfile.ZipFile(NANO) as archive:
        betas = np.frombuffer(archive.read("nano_07b_merged_all/data/0"), "<f4")
    np.testing.assert_array_equal(nano.tensors["betas"].numpy(), betas)
    expected = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(betas, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale_factor", 0.18215),
        ("linear_start", 0.00085),
        ("parameterization", "eps"),
        ("model.diffusion_model.time_cond_proj_dim", 256),
        ("model.diffusion_model.channel_mult", (1, 2)),
        ("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.heads", 4),
        ("model.diffusion_model.input_blocks.1.0.in_layers.0.num_groups", 32),
        ("cond_stage_model.model.transformer.resblocks.0.attn.num_heads", 2),
    ],
)
def test_whole_module_keeps_its_numbers(nano: Checkpoint, name: str, value: object) -> None:
    assert nano.metadata[name] == value


def test_modules_of_known_classes_are_named_as_state_dict_names_them(tmp_path: Path) -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    module = torch.nn.Sequential(OrderedDict(a=inner, b=inner))  # shared under two names
    torch.save(module, tmp_path / "module.pt")
    _assert_same(read_checkpoint(tmp_path / "module.pt"), module.state_dict())


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_state_dict(
    weights: dict[str, torch.Tensor], tmp_path: Path, nested: bool, protocol: int
) -> None:
    content = {"epoch": 3, "state_dict": OrderedDict(weights)} if nested else weights
    torch.save(content, tmp_path / "w.ckpt", pickle_protocol=protocol)
    checkpoint = read_checkpoint(tmp_path / "w.ckpt")
    _assert_same(checkpoint, weights)
    assert checkpoint.metadata == {}


def test_safetensors(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, tmp_path / "w.safetensors", metadata={"format": "pt"})
    _assert_same(read_checkpoint(tmp_path / "w.safetensors"), weights)
    _assert_same(read_checkpoint(tmp_path), weights)


def test_tensors_with_a_hole_between_are_refused(tmp_path: Path) -> None:
    """The format allows none; the library that reads it says so."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}
    header = json.dumps({"a": entry}).encode()
    header += b" " * (-len(header) % 8)
    data = len(header).to_bytes(8, "little") + header + b"\0" + np.array([1, 2], "<f4").tobytes()
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        read_checkpoint(tmp_path)


def test_sharded_folder(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "w-1.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "w-2.safetensors")
    with pytest.raises(CheckpointError, match="several checkpoints"):
        read_checkpoint(tmp_path)
    assert set(read_checkpoint(tmp_path, filename="w-2.safetensors").tensors) == {"b"}
    index = tmp_path / "w.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}}),
        encoding="utf-8",
    )
    checkpoint = read_checkpoint(tmp_path)
    _assert_same(checkpoint, {"a": torch.ones(2), "b": torch.zeros(3)})
    assert len(checkpoint.sha256()) == 64
    index.write_text(json.dumps({"weight_map": {"a": "../w-1.safetensors"}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="outside"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_hub_cache_serves_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    home = tmp_path / "models--owner--name"
    (home / "snapshots" / COMMIT).mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    torch.save({"a": torch.ones(2)}, home / "snapshots" / COMMIT / "07B_merged_all.pt")
    torch.save({"b": torch.ones(2)}, home / "snapshots" / COMMIT / "09B_merged_all.pt")
    checkpoint = read_checkpoint("owner/name", cache_dir=tmp_path, revision=revision)
    assert checkpoint.source == f"owner/name@{COMMIT}/07B_merged_all.pt"
    assert set(checkpoint.tensors) == {"a"}
    other = read_checkpoint("owner/name", cache_dir=tmp_path, filename="09B_merged_all.pt")
    assert set(other.tensors) == {"b"}
    with pytest.raises(HubError, match="owner/name cannot be fetched"):
        read_checkpoint("owner/name", cache_dir=tmp_path, filename="absent.pt")
    with pytest.raises(HubError, match="owner/absent cannot be fetched"):
        read_checkpoint("owner/absent", cache_dir=tmp_path)


class _Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"echo > {self.marker}",)


def test_attack_in_an_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": _Attack(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"w\.pt: refused: .* (posix|nt)\.system"):
        read_checkpoint(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pt", b"", "empty"),
        ("w.pt", b"just some text, no weights", "not a checkpoint"),
        ("w.pt", b"\x80\x02}q\x00.", "bare pickle"),
        ("w.pt", b"PK\x03\x04" + bytes(100), "damaged or cut short"),
        ("w.safetensors", b"1234", "cut short"),
        ("w.safetensors", b"\x08" + bytes(7) + b"{not js}", "damaged or cut short"),
        ("readme.txt", b"hello", "is there"),
    ],
)
def test_unreadable_content(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("source", ["absent.pt", "absent/w.pt", "a/b/c", Path("owner/name")])
def test_missing_file(source: str | Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(source)


def test_truncated_files(tmp_path: Path) -> None:
    whole = NANO.read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        read_checkpoint(tmp_path / "w.pt")
    save_file({"a": torch.ones(1000)}, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        read_checkpoint(tmp_path / "w.safetensors")


def test_archives_that_cannot_be_mapped(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(100)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="big-endian"):
        read_checkpoint(_rewritten(tmp_path / "w.pt", {"byteorder": b"big"}))
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(_rewritten(tmp_path / "w.pt", {}, zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="reaches element 99"):
        read_checkpoint(_rewritten(tmp_path / "w.pt", {"data/0": bytes(80)}))
    with pytest.raises(CheckpointError, match="no tensors"):
        read_checkpoint(_rewritten(tmp_path / "w.pt", {"data.pkl": b"]."}))


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "message"),
    [
        (0, (100,), (2,), "reaches element 198"),
        (1, (100,), (1,), "reaches element 100"),
        (0, (10,), (-1,), "negative"),
        (-1, (10,), (1,), "negative"),
        (0, (2**40,), (0,), "more than its file holds"),
        (0, (2**40, 2**40), (0, 0), "more than its file holds"),
        (0, (10, 10), (1,), "2 sizes and 1 strides"),
        (0, ("10",), (1,), "impossible"),
    ],
)
def test_tensors_outside_their_record(
    tmp_path: Path, offset: int, shape: tuple[int], stride: tuple[int], message: str
) -> None:
    torch.save({"a": torch.ones(100)}, tmp_path / "w.pt")
    text = f"I{offset}\n({_literals(shape)}t({_literals(stride)}tI00\n(dt"
    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI100\ntQ"
    pickled = b"(dVa\nctorch._utils\n_rebuild_tensor_v2\n(" + storage + text.encode() + b"Rs."
    with pytest.raises(CheckpointError, match=f"tensor 'a' .*{message}"):
        read_checkpoint(_rewritten(tmp_path / "w.pt", {"data.pkl": pickled}))


def _literals(values: tuple[object, ...]) -> str:
    return "".join(f"V{v}\n" if isinstance(v, str) else f"I{v}\n" for v in values)


def test_modules_that_contain_themselves(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    pickled = b"cx\nY\n)\x81p0\n(dV_parameters\n(dsV_buffers\n(dsV_modules\n(dVm\ng0\nssb."
    with pytest.raises(CheckpointError, match="without end"):
        read_checkpoint(_rewritten(tmp_path / "w.pt", {"data.pkl": pickled}))


def test_strict_load_shares_the_file(tmp_path: Path) -> None:
    source = torch.nn.Linear(3, 2)
    published = {f"stage.{name}": tensor for name, tensor in source.state_dict().items()}
    extra = {
        "other.w": torch.ones(1),
        "stage.logit_scale": torch.ones(()),
        "stage.r.w": torch.ones(1),
    }
    torch.save(published | extra, tmp_path / "w.pt")
    checkpoint = read_checkpoint(tmp_path / "w.pt")
    module = torch.nn.Linear(3, 2, device="meta")
    load_strict(module, checkpoint, "stage.", ignored={"logit_scale", "r."})
    torch.testing.assert_close(module.weight, source.weight, rtol=0, atol=0)
    assert isinstance(module.weight, torch.nn.Parameter)
    assert module.weight.data_ptr() == checkpoint.tensors["stage.weight"].data_ptr()


def test_strict_load_lists_every_problem_at_once(tmp_path: Path) -> None:
    module = torch.nn.Module()
    for name in ("gone", "bent", "nan", "inf", "good"):
        module.register_parameter(name, torch.nn.Parameter(torch.empty(2, device="meta")))
    published = {
        "s.bent": torch.ones(3),
        "s.nan": torch.tensor([1.0, torch.nan]),
        "s.inf": torch.tensor([1.0, -torch.inf], dtype=torch.float16),
        "s.good": torch.ones(2),
        **{f"s.extra{i}": torch.ones(1) for i in range(10)},
    }
    save_file(published, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_strict(module, read_checkpoint(tmp_path), "s.")
    message = str(caught.value)
    assert "1 missing: gone;" in message
    assert "10 unexpected: extra0, " in message
    assert "extra7 and 2 more;" in message
    assert "1 misshapen: bent is (3,) instead of (2,);" in message
    assert "2 non-finite: nan, inf)" in message
    assert module.get_parameter("good").is_meta


_MEASURE = """
import sys
from pathlib import Path
import torch
from hummingbird_edge.export.checkpoint import load_strict, read_checkpoint

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])

module = torch.nn.Linear(5000, 5000, bias=False, device="meta")
torch.aminmax(torch.ones(1000))
before = anonymous()
load_strict(module, read_checkpoint(sys.argv[1]), "b.")
assert float(module.weight.detach()[0, 0]) == 0
print(anonymous() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is Linux's")
def test_memory_stays_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({f"{stage}.weight": torch.zeros(5000, 5000) for stage in "abc"}, path)
    assert path.stat().st_size > 300_000_000
    command = [sys.executable, "-c", _MEASURE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    path.unlink()
    assert int(done.stdout) < 16_000  # kB
