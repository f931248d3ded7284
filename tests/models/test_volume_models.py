"""Networks for volumes: published sizes, and what every one of them promises."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pixelwise.checkpoint import load, save
from pixelwise.decode import confidence, semantic
from pixelwise.registry import build, describe, list_models
from pixelwise.types import Batch, ClassTable, DenseLogits, DenseModel

CLASSES = 3
NAMES = [name for name in list_models() if "volume" in describe(name).tasks]


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> DenseModel:
    torch.manual_seed(0)
    return build(request.param, CLASSES, width=4)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_networks_for_volumes_are_found() -> None:
    assert {"vnet", "vnet_released", "unet3d"} <= set(NAMES)


def test_published_sizes() -> None:
    with torch.device("meta"):
        assert count(build("vnet_released", 2)) == 61_982_682  # the authors' prototxt, PReLU slopes included
        unet = build("unet3d", 3, in_channels=3)
        norms = sum(count(m) for m in unet.modules() if isinstance(m, nn.BatchNorm3d))
        assert count(unet) - norms == 19_069_955  # Sec. 2 of the paper


def test_the_paper_s_vnet_sees_what_its_table_says() -> None:
    # Receptive field of the last voxel before the way up, in voxels (Table 1, L-stage 5): 372.
    field, step = 1, 1
    for stage, convolutions in enumerate((1, 2, 3, 3, 3)):
        if stage:
            field, step = field + step, 2 * step
        field += 4 * step * convolutions
    assert field == 372
    model = build("vnet", 2, width=4)
    assert [len(stage.convolutions) for stage in model.down] == [1, 2, 3, 3, 3]
    assert [len(stage.convolutions) for stage in model.up] == [3, 3, 2, 1]


@pytest.mark.parametrize("size", [(16, 16, 16), (24, 16, 32), (17, 30, 21)])
def test_every_voxel_is_scored(model: DenseModel, size: tuple[int, int, int]) -> None:
    with torch.no_grad():
        output = model.eval()(torch.rand(1, 1, *size))
    assert isinstance(output, DenseLogits)
    assert output.size == size
    assert output.logits.shape == (1, CLASSES, *size)
    assert output.logits.std() > 0
    assert torch.equal(semantic(output).labels, output.logits.argmax(1))


@pytest.mark.parametrize("size", [(4, 5, 6), (9, 8, 7)])
def test_scores_of_volumes_are_decoded_at_any_size(size: tuple[int, int, int]) -> None:
    output = DenseLogits(torch.rand(2, CLASSES, 4, 5, 6), size)
    assert torch.equal(semantic(output).labels, output.logits.argmax(1))
    found = confidence(output)
    assert torch.equal(found.labels, output.logits.argmax(1))
    torch.testing.assert_close(found.probability, output.logits.softmax(1).amax(1))


def test_a_smaller_volume_is_refused(model: DenseModel) -> None:
    with pytest.raises(ValueError, match="at least 16 x 16 x 16 voxels, got 15 x 20 x 20"):
        model(torch.rand(1, 1, 15, 20, 20))


def test_one_volume_trains_and_every_parameter_gets_a_gradient(model: DenseModel) -> None:
    from pixelwise.losses import make_criterion

    batch = Batch.of(torch.rand(1, 1, 16, 16, 16), torch.randint(0, CLASSES, (1, 16, 16, 16)))
    criterion = make_criterion("squared_dice", ClassTable.of("a", "b", "c"))
    criterion(model.train()(*model.inputs(batch)), batch).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.ndim == 1 or parameter.grad.any(), key


def test_volumes_of_a_batch_do_not_see_each_other(model: DenseModel) -> None:
    volumes = torch.rand(2, 1, 16, 16, 16)
    with torch.no_grad():
        together, alone = model.eval()(volumes).logits, model(volumes[1:]).logits
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-3)


def test_other_channels_are_taken(model: DenseModel) -> None:
    name = model.built_by.builder
    other = build(name, CLASSES, in_channels=2, width=4).eval()
    with torch.no_grad():
        assert other(torch.rand(1, 2, 16, 16, 16)).logits.shape == (1, CLASSES, 16, 16, 16)


def test_a_saved_model_comes_back_as_it_was(model: DenseModel, tmp_path: Path) -> None:
    save(model, tmp_path / "model.safetensors", ClassTable.of("a", "b", "c"))
    volume = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        again = load(tmp_path / "model.safetensors").model(volume).logits
        assert torch.equal(again, model.eval()(volume).logits)


def test_exported_program_equals_eager(model: DenseModel) -> None:
    volume = torch.rand(1, 1, 16, 20, 16)
    program = torch.export.export(model.eval(), (volume,))
    with torch.no_grad():
        torch.testing.assert_close(
            program.module()(volume).logits, model(volume).logits, atol=1e-5, rtol=1e-4
        )


@pytest.mark.slow
@pytest.mark.compile
def test_compiles_in_one_graph(model: DenseModel) -> None:
    volume = torch.rand(1, 1, 16, 20, 16)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model.eval(), fullgraph=True, backend="eager")(volume)
        torch.testing.assert_close(compiled.logits, model(volume).logits, atol=1e-5, rtol=1e-4)


def test_settings_of_vnet_that_do_not_fit_are_named() -> None:
    from pixelwise.models import VNet

    with pytest.raises(ValueError, match="3 stages down need 2 up, got 4"):
        VNet(2, down=(1, 2, 2))
    with pytest.raises(ValueError, match="must divide the width 16, got 3"):
        VNet(2, in_channels=3)
