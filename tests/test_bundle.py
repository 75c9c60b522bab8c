"""Bundles are held to their manifest, and reach nothing outside their folder."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from hummingbird_edge.runtime.bundle import bundle as bundle_module
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.external_data import external_files
from hummingbird_edge.runtime.bundle.manifest import MANIFEST, Manifest, StageKind
from hummingbird_edge.runtime.errors import BundleError
from hummingbird_edge.runtime.files import sha256_of

GRAPH = bytes((0x08, 10))
"""The smallest ONNX graph: its version of the format, and nothing else."""

posix = pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights on Windows")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a bundle of small files: opening one looks into none of them."""
    path = tmp_path / "bundle"
    (path / "unet").mkdir(parents=True)
    (path / "unet" / "model.onnx").write_bytes(GRAPH)
    (path / "unet" / "model.onnx_data").write_bytes(b"weights")
    files = {
        name: {
            "bytes": (path / name).stat().st_size,
            "sha256": sha256_of(path / name),
        }
        for name in ("unet/model.onnx", "unet/model.onnx_data")
    }
    write(path, {**ENTRIES, "files": files})
    return path


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a place of its own where verified bundles are remembered."""
    place = tmp_path / "cache"
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(place))
    return place


ENTRIES: dict[str, Any] = {
    "format": "hummingbird-edge",
    "format_version": 1,
    "name": "tiny",
    "model": {
        "latent_channels": 4,
        "vae_downsampling": 8,
        "unet_downsampling": 2,
        "scaling_factor": 0.18215,
        "context_length": 77,
        "context_width": 16,
        "guidance_width": None,
    },
    "sampler": {"prediction_type": "epsilon"},
    "defaults": {"frames": 8},
    "stages": {"unet": {"variants": [{"graph": "unet/model.onnx"}]}},
    "files": {},
    "provenance": {},
    "licence": "none",
}


def write(folder: Path, entries: Any) -> None:
    (folder / MANIFEST).write_text(json.dumps(entries), encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return entries


def flip(path: Path) -> None:
    """Change one bit of a file, leaving its size and its time."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def count_hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by every weights file that is hashed."""
    hashed: list[str] = []

    def counting(path: Path) -> str:
        if path.name != MANIFEST:
            hashed.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(bundle_module, "sha256_of", counting)
    return hashed


def test_a_whole_bundle_opens(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.graph("unet") == folder / "unet" / "model.onnx"
    assert bundle.bytes == len(GRAPH + b"weights")
    assert bundle.digest == sha256_of(folder / MANIFEST)
    assert bundle.manifest.defaults.frames == 8
    assert bundle.manifest.defaults.steps == 4
    assert bundle.manifest.model.size_divisor == 16
    assert Bundle.open(str(folder)).manifest == bundle.manifest


def test_a_stage_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(BundleError, match="bundle tiny has no vae_decoder, only unet: build it"):
        Bundle.open(folder).graph("vae_decoder")


def test_a_graph_without_a_digest_is_refused(folder: Path) -> None:
    entries = read(folder)
    del entries["files"]["unet/model.onnx"]
    write(folder, entries)
    with pytest.raises(BundleError, match=r"gives no digest for unet/model\.onnx: build"):
        Bundle.open(folder).graph("unet")


def test_a_changed_byte_is_found_on_first_use(folder: Path) -> None:
    flip(folder / "unet" / "model.onnx_data")
    with pytest.raises(BundleError, match=r"model\.onnx_data was changed: its SHA-256 is"):
        Bundle.open(folder)


def test_digests_are_compared_once_and_again_after_a_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = count_hashes(monkeypatch)
    Bundle.open(folder)
    assert hashed == ["model.onnx", "model.onnx_data"]
    Bundle.open(folder)
    assert len(hashed) == 2
    Bundle.open(folder, verify=True)
    assert len(hashed) == 4
    os.utime(folder / "unet" / "model.onnx", ns=(1, 1))  # written again, with the same content
    Bundle.open(folder)
    assert len(hashed) == 6
    (folder / "unet" / "model.onnx").write_bytes(GRAPH[::-1])
    for _ in range(2):  # a refusal is not remembered as a success
        with pytest.raises(BundleError, match=r"unet.model\.onnx was changed"):
            Bundle.open(folder)


def test_verify_finds_what_a_kept_time_hides(folder: Path) -> None:
    Bundle.open(folder)
    flip(folder / "unet" / "model.onnx")
    with pytest.raises(BundleError, match="was changed"):
        Bundle.open(folder, verify=True)


def test_a_changed_manifest_is_verified_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bundle.open(folder)
    hashed = count_hashes(monkeypatch)
    write(folder, {**read(folder), "name": "renamed"})
    Bundle.open(folder)
    assert len(hashed) == 2


def test_two_bundles_are_remembered_apart(folder: Path, tmp_path: Path, records: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for path in (folder, other):
        Bundle.open(path)
    assert len([path for path in records.rglob("*") if path.is_file()]) == 2


def test_a_damaged_record_only_costs_a_hash(folder: Path, records: Path) -> None:
    Bundle.open(folder)
    (record,) = (path for path in records.rglob("*") if path.is_file())
    record.write_bytes(b"\xff\xfe")
    flip(folder / "unet" / "model.onnx")
    with pytest.raises(BundleError, match="was changed"):
        Bundle.open(folder)


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path, records: Path) -> None:
    records.write_text("a file where the folder belongs", encoding="utf-8")
    for _ in range(2):
        assert Bundle.open(folder).manifest.name == "tiny"
    assert records.read_text(encoding="utf-8") == "a file where the folder belongs"


@pytest.mark.parametrize("name", ["unet/model.onnx", "unet/model.onnx_data"])
def test_a_missing_or_cut_file_is_named(folder: Path, name: str) -> None:
    Bundle.open(folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    size = len(content)
    with pytest.raises(BundleError, match=f"has {size - 1} bytes, the manifest says {size}: "):
        Bundle.open(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{Path(name).name} is missing: build or copy"):
        Bundle.open(folder)


def test_what_is_no_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no bundle at .*nowhere: check the path"):
        Bundle.open(tmp_path / "nowhere")
    (folder / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"is no bundle, it has no hummingbird\.json: build one"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"format": NaN'], ids=range(5)
)
def test_a_manifest_that_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(folder)


@pytest.mark.parametrize("content", [[], "hummingbird-edge", None, {}, {"format": "other"}])
def test_another_json_file_is_refused(folder: Path, content: Any) -> None:
    write(folder, content)
    with pytest.raises(BundleError, match="is not the manifest of a hummingbird-edge bundle"):
        Bundle.open(folder)


def test_a_newer_manifest_asks_for_an_upgrade(folder: Path) -> None:
    write(folder, {"format": "hummingbird-edge", "format_version": 2, "all": "different"})
    with pytest.raises(BundleError, match=r"has format version 2, .* up to 1: upgrade"):
        Bundle.open(folder)


@pytest.mark.parametrize("version", [None, "1", 0, -1, 1.0])
def test_a_strange_version_is_refused(folder: Path, version: Any) -> None:
    write(folder, {**read(folder), "format_version": version})
    with pytest.raises(BundleError, match="has format version"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["a cat"] * 65, "there are 65 prompts, 64 at most"),
        (["a cat", " "], "a prompt has 0 characters, 1 to 2000 can be"),
        (["a" * 2001], "a prompt has 2001 characters"),
        (["a cat\x1b[2J"], "has characters that cannot be printed"),
        ("a cat", "Expected `array`"),
    ],
)
def test_prompts_that_are_no_examples_are_refused(
    folder: Path, prompts: object, message: str
) -> None:
    assert Bundle.open(folder).manifest.prompts == ()
    write(folder, {**read(folder), "prompts": prompts})
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "unet/../../secret",
        "/etc/passwd",
        "unet\\model.onnx",
        "..\\secret",
        "C:/secret",
        "C:secret",
        "//server/share/file",
        "",
        ".",
        "unet/model.onnx\x00",
        "unet/\ud800",
        "a" * 256,
        "a/" * 2000 + "a",
    ],
)
@pytest.mark.parametrize("where", ["files", "stages"])
def test_paths_out_of_the_bundle_are_refused(folder: Path, path: str, where: str) -> None:
    (folder.parent / "secret").write_bytes(GRAPH)
    entries = read(folder)
    if where == "files":
        entries["files"][path] = {
            "bytes": len(GRAPH),
            "sha256": sha256_of(folder.parent / "secret"),
        }
    else:
        entries["stages"]["unet"]["variants"][0]["graph"] = path
    write(folder, entries)
    with pytest.raises(BundleError, match=r"outside its folder|no file's name|too long"):
        Bundle.open(folder)


@posix
@pytest.mark.parametrize("linked", ["unet/model.onnx", "unet"])
def test_links_out_of_the_bundle_are_refused(folder: Path, tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    shutil.move(folder / linked, outside)
    (folder / linked).symlink_to(outside)
    with pytest.raises(BundleError, match="is a link out of"):
        Bundle.open(folder)


@posix
def test_links_in_a_circle_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(BundleError, match=r"circle"):
        Bundle.open(tmp_path / "circle")
    (folder / "unet" / "model.onnx").unlink()
    (folder / "unet" / "model.onnx").symlink_to(folder / "unet" / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        Bundle.open(folder)


def test_a_manifest_without_end_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_text("[" + "[]," * 1_000_000 + "1]", encoding="utf-8")
    with pytest.raises(BundleError, match="more than 2097152 bytes"):
        Bundle.open(folder)


@posix
def test_links_within_the_bundle_and_to_it_are_fine(folder: Path, tmp_path: Path) -> None:
    (folder / "unet" / "model.onnx").rename(folder / ".graph")
    (folder / "unet" / "model.onnx").symlink_to(folder / ".graph")
    (tmp_path / "link").symlink_to(folder)
    assert Bundle.open(tmp_path / "link").graph("unet").read_bytes() == GRAPH


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model", None),
        ("model", []),
        ("model.latent_channels", "4"),
        ("model.latent_channels", True),
        ("model.latent_channels", 4.5),
        ("model.latent_channels", 0),
        ("model.latent_channels", -4),
        ("model.latent_channels", 10**9),
        ("model.context_length", 10**12),
        ("model.guidance_width", 10**12),
        ("model.guidance_width", 2),
        ("model.scaling_factor", "0.18"),
        ("model.scaling_factor", 10**400),
        ("model.scaling_factor", 0),
        ("model.guidance_width", "256"),
        ("model.temporal_noise", -0.1),
        ("model.temporal_noise", float("nan")),
        ("model.surprise", 1),
        ("sampler.prediction_type", 3),
        ("sampler.prediction_type", "flow"),
        ("sampler.train_steps", 10**12),
        ("sampler.sigma_data", float("nan")),
        ("defaults.frames", None),
        ("defaults.frames", 10**9),
        ("defaults.fps", 0),
        ("defaults.guidance", 1e300),
        ("defaults.guidance", "7.5"),
        ("stages", []),
        ("stages.unet", []),
        ("stages.unet.variants", []),
        ("stages.unet.variants", {}),
        ("stages.unet.variants", "model.onnx"),
        ("stages.unet.variants", [{"precision": "float32"}]),
        ("stages.unet.variants", [{"graph": 3}]),
        ("stages.unet.variants", [{"graph": "unet/model.onnx", "devices": "cpu"}]),
        ("stages.vae_decoder_tail", {"variants": [{"graph": "unet/model.onnx"}]}),
        ("files", ["unet/model.onnx"]),
        ("files.a", {"bytes": "5", "sha256": ""}),
        ("files.a", {"bytes": 5}),
        ("files.a", 5),
        ("provenance", 3),
    ],
)
def test_wrong_types_are_refused(folder: Path, place: str, value: Any) -> None:
    entries = read(folder)
    *parents, last = place.split(".")
    part = entries
    for name in parents:
        part = part[name]
    part[last] = value
    with pytest.raises(BundleError, match=r"does not state what a bundle needs \(.*build"):
        Manifest.from_dict(entries, folder / MANIFEST)


@pytest.mark.parametrize(
    "tiled", [None, {}, {"scale": 2, "layers": 10**9, "groups": 2}, {"scale": 0, "layers": 1}]
)
def test_a_decoder_for_tiles_is_checked(folder: Path, tiled: Any) -> None:
    entries = read(folder)
    graph = {"variants": [{"graph": "unet/model.onnx"}]}
    entries["stages"] |= {"vae_decoder_head": graph, "vae_decoder_tail": {**graph, "tiled": tiled}}
    with pytest.raises(BundleError, match="does not state what a bundle needs"):
        Manifest.from_dict(entries, folder / MANIFEST)
    entries["stages"]["vae_decoder_tail"]["tiled"] = {"scale": 2, "layers": 13, "groups": 32}
    metadata = Manifest.from_dict(entries, folder / MANIFEST).tiled
    assert metadata is not None
    assert metadata.layers == 13


@pytest.mark.parametrize("name", sorted(set(ENTRIES) - {"format", "format_version"}))
def test_missing_entries_are_refused(folder: Path, name: str) -> None:
    entries = read(folder)
    del entries[name]
    write(folder, entries)
    with pytest.raises(BundleError, match=rf"does not state .*missing required field `{name}`"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", [".git/config", ".cache/huggingface/x.lock", "README.md", "a.mp4"])
def test_files_that_are_not_listed_are_passed_over(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("somebody else's", encoding="utf-8")
    assert Bundle.open(folder, verify=True).graph("unet").read_bytes() == GRAPH


def write_graph(path: Path, location: str, depth: int = 0) -> None:
    """Write a graph whose weight lies in another file, at the top or in a branch of an `If`."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="offset", value="0")
    weight.external_data.add(key="location", value=location)
    value = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "g", [], [value], [weight])
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["w"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "g", [], [value])
    path.write_bytes(helper.make_model(graph).SerializeToString())


def list_file(folder: Path, name: str) -> None:
    """Put a file into the manifest, as it is now."""
    entries = read(folder)
    size = (folder / name).stat().st_size
    entries["files"][name] = {"bytes": size, "sha256": sha256_of(folder / name)}
    write(folder, entries)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("location", [".hidden", "../secret", "/etc/passwd", "sub/../other"])
def test_weights_without_a_digest_are_refused(folder: Path, location: str, depth: int) -> None:
    """An engine reads what a graph names: no file without a digest may be within reach."""
    (folder / "unet" / ".hidden").write_bytes(b"1234")
    write_graph(folder / "unet" / "model.onnx", "model.onnx_data", depth)
    list_file(folder, "unet/model.onnx")
    Bundle.open(folder)
    write_graph(folder / "unet" / "model.onnx", location, depth)
    list_file(folder, "unet/model.onnx")
    with pytest.raises(BundleError, match=r"reads weights from .*, which the manifest does not"):
        Bundle.open(folder)


@pytest.mark.parametrize("damage", [b"\xff", b"\x3a\x7f", b"\x3a\x80", b"\x80" * 20, b"\x0f"])
def test_a_graph_that_is_no_protobuf_is_refused(folder: Path, damage: bytes) -> None:
    (folder / "unet" / "model.onnx").write_bytes(damage)
    list_file(folder, "unet/model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx is no ONNX graph"):
        Bundle.open(folder)


def test_every_external_file_of_a_real_bundle_is_found(nano_bundle: Path) -> None:
    for name in Bundle.open(nano_bundle).manifest.files:
        if name.endswith(".onnx"):
            model = onnx.load(nano_bundle / name, load_external_data=False)
            named = {
                entry.value
                for tensor in model.graph.initializer
                for entry in tensor.external_data
                if entry.key == "location"
            }
            assert external_files(nano_bundle / name) == named


def test_a_tiny_decoder_of_before_takes_scaled_latents(folder: Path) -> None:
    """Its manifest had no kinds; since then the scaling is undone inside its graph."""
    entries = read(folder)
    entry = {"variants": [{"graph": "unet/model.onnx"}]}
    for tiny, scaled in ((entry, True), ({**entry, "kind": "decoder"}, False)):
        entries["stages"]["tiny_decoder"] = tiny
        stage = Manifest.from_dict(entries, folder / MANIFEST).stage("tiny_decoder")
        assert (stage.kind, stage.takes_scaled_latents) == (StageKind.DECODER, scaled)
