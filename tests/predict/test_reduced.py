"""Networks that look at smaller images are models like any other."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.checkpoint import ensemble, load, save
from pixelwise.ensembles import averaged_weights
from pixelwise.predict import Predictor
from pixelwise.reduced import Reduced
from pixelwise.training.init_from import take_weights
from pixelwise.types import ClassTable

CLASSES = ClassTable.of("ground", "tree", "road")


def network(seed: int = 0, factor: int = 2, **arguments: object) -> Reduced:
    torch.manual_seed(seed)
    return Reduced(pw.build("unet", 3, encoder="tiny", **arguments), factor).eval()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_it_sees_the_means_of_squares_and_scores_the_whole_image(factor: int) -> None:
    model = network(factor=factor)
    image = torch.rand(2, 3, 8 * factor * 5, 8 * factor * 4)
    with torch.no_grad():
        seen = model.network(F.avg_pool2d(image, factor))
        found = model(image)
    torch.testing.assert_close(found.coarse, seen.coarse)
    assert found.logits.shape == (2, 3, *image.shape[2:])


def test_odd_sizes_keep_their_size_and_small_images_are_refused() -> None:
    model = network(factor=4)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 131, 203)).logits.shape == (1, 3, 131, 203)
    assert model.minimum_size == 4 * model.network.minimum_size
    with pytest.raises(ValueError, match=r"needs images of at least \d+ x \d+ pixels, got 3 x 300"):
        model(torch.rand(1, 3, 3, 300))


@pytest.mark.parametrize("size", [(36, 40, 48), (35, 17, 50), (16, 16, 16)])
def test_volumes_are_halved_too(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = Reduced(pw.build("unet3d", 3, width=2), 2).eval()
    image = torch.rand(1, 1, *size)
    with torch.no_grad():
        found = model(image)
        assert found.logits.shape == (1, 3, *size)
        if size == (36, 40, 48):
            seen = model.network(F.avg_pool3d(image, 2))
            torch.testing.assert_close(found.coarse, seen.coarse)
    assert model.minimum_size == 16
    with pytest.raises(ValueError, match="needs volumes of at least 16 x 16 x 16 voxels"):
        model(torch.rand(1, 1, 15, 20, 20))


def test_a_checkpoint_gives_it_again(tmp_path: Path) -> None:
    model, image = network(), torch.rand(3, 97, 130)
    save(model, tmp_path / "half.safetensors", CLASSES)
    found = load(tmp_path / "half.safetensors")
    assert isinstance(found.model, Reduced)
    assert found.built_by == model.built_by
    expected = Predictor(model, CLASSES)(image, probabilities=True).probabilities
    given = Predictor(tmp_path / "half.safetensors")(image, probabilities=True).probabilities
    assert torch.equal(given, expected)


def test_several_are_averaged(tmp_path: Path) -> None:
    models, image = [network(seed) for seed in (0, 1)], torch.rand(1, 3, 64, 64)
    for number, model in enumerate(models):
        save(model, tmp_path / f"{number}.safetensors", CLASSES)
    both = ensemble([load(tmp_path / f"{number}.safetensors") for number in (0, 1)])
    pw.save(both.model, tmp_path / "both.safetensors", CLASSES)
    with torch.no_grad():
        mean = torch.stack([model(image).logits.softmax(1) for model in models]).mean(0)
        found = load(tmp_path / "both.safetensors").model(image).logits.softmax(1)
    torch.testing.assert_close(found, mean)
    soup = averaged_weights(models)
    assert isinstance(soup, Reduced)
    for own, *parts in zip(*(one.state_dict().values() for one in (soup, *models)), strict=True):
        torch.testing.assert_close(own.double(), torch.stack(parts).double().mean(0), check_dtype=False)


@pytest.mark.parametrize("reduced", [True, False])
def test_weights_go_from_one_to_the_other(reduced: bool, tmp_path: Path) -> None:
    source, target = network(0), network(1)
    given, own = (source, target.network) if reduced else (source.network, target)
    save(given, tmp_path / "given.safetensors", CLASSES)
    take_weights(own, tmp_path / "given.safetensors", CLASSES.names, reset_head=False)
    for mine, theirs in zip(target.state_dict().values(), source.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_only_scores_of_pixels_can_be_made_for_smaller_images() -> None:
    with pytest.raises(ValueError, match="only models that score every pixel can look at reduced images"):
        Reduced(pw.build("solov2", 3, encoder="tiny"), 2)
    with pytest.raises(ValueError, match="reduce must be one of 1, 2, 4, 8, got 3"):
        network(factor=3)


@pytest.mark.slow
@pytest.mark.compile
def test_its_file_gives_the_same_at_odd_sizes(tmp_path: Path) -> None:
    model, image = network(factor=4), torch.rand(3, 131, 207)
    expected = Predictor(model, CLASSES)(image, probabilities=True).probabilities
    for name in ("m.onnx", "m.pt2"):
        pw.export.export(pw.checkpoint.Checkpoint(model, CLASSES, model.built_by, {}), tmp_path / name)
        found = Predictor(tmp_path / name)(image, probabilities=True).probabilities
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.compile
def test_a_program_of_torch_tells_of_sizes_that_it_leaves_out(tmp_path: Path) -> None:
    model = network().network
    pw.export.export(pw.checkpoint.Checkpoint(model, CLASSES, model.built_by, {}), tmp_path / "m.pt2")
    with pytest.raises(ValueError, match="takes no image of 32 x 32 pixels, only larger ones"):
        Predictor(tmp_path / "m.pt2")(torch.rand(3, 32, 32))
