"""Pruning: blocks are the teacher's, the important ones stay, and the full-size layout fits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hummingbird_edge.distill.train.prune import (
    Probe,
    Pruning,
    blocks,
    importance,
    plan_pruning,
    prune,
)
from hummingbird_edge.export.models.config import PRESETS, UNetConfig
from hummingbird_edge.export.models.unet import ResBlock, UNet
from hummingbird_edge.runtime.errors import RequestError

pytestmark = pytest.mark.slow

TEACHER = UNetConfig(
    width=16,
    multipliers=(1, 2, 4, 4),
    res_blocks=2,
    attention_levels=(0, 1, 2),
    head_width=8,
    initial_heads=2,
    context_width=16,
    middle_block=True,
    guidance_width=None,
    groups=4,
)
SHAPES = {
    "0.7b": replace(TEACHER, res_blocks=1, middle_block=False, guidance_width=256),
    "0.9b": replace(TEACHER, res_blocks=1, guidance_width=256),
}


@pytest.fixture(scope="module")
def teacher() -> UNet:
    torch.manual_seed(0)
    return UNet(TEACHER).eval()


@pytest.fixture(scope="module")
def probes() -> list[Probe]:
    draw = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 4, 3, 8, 8, generator=draw)
    context = torch.randn(1, 77, 16, generator=draw)
    return [Probe(sample, torch.tensor([t]), context) for t in (999, 300)]


def run(unet: UNet, probe: Probe) -> torch.Tensor:
    width = unet.config.guidance_width
    cond = None if width is None else torch.randn(1, width)
    with torch.no_grad():
        output: torch.Tensor = unet(probe.sample, probe.timestep, probe.context, cond)
    return output


@pytest.mark.parametrize("shape", SHAPES)
def test_every_weight_is_the_teachers(teacher: UNet, probes: list[Probe], shape: str) -> None:
    student = SHAPES[shape]
    plan = plan_pruning(TEACHER, student, importance(teacher, probes))
    weights = prune(teacher.state_dict(), plan, student)
    unet = UNet(student)
    unet.load_state_dict(weights)
    known = {tensor.data_ptr() for tensor in teacher.state_dict().values()}
    invented = [name for name, tensor in weights.items() if tensor.data_ptr() not in known]
    assert invented == ["time_cond_proj.weight"]
    assert weights["time_cond_proj.weight"].abs().max() == 0
    assert torch.isfinite(run(unet, probes[0])).all()


def test_pruning_to_the_same_shape_changes_nothing(teacher: UNet, probes: list[Probe]) -> None:
    same = replace(TEACHER, guidance_width=256)
    plan = plan_pruning(TEACHER, same, importance(teacher, probes))
    assert all(ours == theirs for ours, theirs in plan.kept.items())
    unet = UNet(same)
    unet.load_state_dict(prune(teacher.state_dict(), plan, same))
    torch.testing.assert_close(run(unet.eval(), probes[0]), run(teacher, probes[0]))


def test_the_more_important_of_two_blocks_stays(probes: list[Probe]) -> None:
    """A block whose branches are zero changes nothing when it is left out, so it goes."""
    for idle, busy in (("input_blocks.1", "input_blocks.2"), ("input_blocks.2", "input_blocks.1")):
        torch.manual_seed(1)
        unet = UNet(TEACHER).eval()
        block = unet.get_submodule(idle)[0]  # type: ignore[index]
        assert isinstance(block, ResBlock)
        for stage in (block.out_layers, block.temopral_conv.conv4):
            for parameter in stage[-1].parameters():
                torch.nn.init.zeros_(parameter)
        for transformer in list(unet.get_submodule(idle))[1:]:  # type: ignore[call-overload]
            torch.nn.init.zeros_(transformer.proj_out.weight)
            torch.nn.init.zeros_(transformer.proj_out.bias)
        worth = importance(unet, probes)
        assert worth[idle] == pytest.approx(0, abs=1e-9)
        assert worth[busy] > 1e-6
        assert plan_pruning(TEACHER, SHAPES["0.7b"], worth).kept["input_blocks.1"] == busy


def test_measuring_leaves_the_teacher_as_it_was(teacher: UNet, probes: list[Probe]) -> None:
    before = run(teacher, probes[0])
    importance(teacher, probes)
    assert torch.equal(run(teacher, probes[0]), before)


@pytest.mark.parametrize("name", ["hummingbird-0.7b", "hummingbird-0.9b"])
def test_the_published_layouts_fit(name: str) -> None:
    teacher, student = PRESETS["videocrafter2"].unet, PRESETS[name].unet
    worth = dict.fromkeys((block.name for block in blocks(teacher)), 1.0)
    plan = plan_pruning(teacher, student, worth)
    with torch.device("meta"):
        weights = prune(UNet(teacher).state_dict(), plan, student)
        UNet(student).load_state_dict(weights, assign=True)
    count = sum(tensor.numel() for tensor in weights.values())
    assert count == {"hummingbird-0.7b": 772_091_780, "hummingbird-0.9b": 945_209_220}[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 32}, "width 32 cannot be pruned from a teacher with 16"),
        ({"res_blocks": 3}, "blocks that the teacher lacks"),
    ],
)
def test_students_that_do_not_fit_are_refused(change: dict[str, int], message: str) -> None:
    worth = dict.fromkeys((block.name for block in blocks(TEACHER)), 1.0)
    with pytest.raises(RequestError, match=message):
        plan_pruning(TEACHER, replace(TEACHER, **change), worth)  # type: ignore[arg-type]


def test_the_choice_is_written_and_read_back(tmp_path: Path) -> None:
    plan = Pruning({"input_blocks.1": "input_blocks.2"}, {}, {"input_blocks.2": 0.25})
    plan.write(tmp_path / "prune.json")
    assert Pruning.read(tmp_path / "prune.json") == plan
    assert "| input_blocks.2 | 25.00 % | input_blocks.1 |" in plan.table()
