"""Another background behind what is near."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelwise.backgrounds import (
    BackgroundReplacer,
    background_of,
    background_predictor,
    filling,
    foreground_classes,
    steadied,
)
from pixelwise.predict import Predictor
from pixelwise.types import ClassTable, DenseLogits, DenseModel
from tests.backgrounds.conftest import PORTRAIT, BrightIsNear

RED = torch.tensor([1.0, 0, 0]).view(3, 1, 1)


def test_the_background_is_replaced_and_the_person_kept(predictor, picture) -> None:
    found = BackgroundReplacer(predictor, RED, size=64)(picture)
    assert found.shape == picture.shape
    torch.testing.assert_close(found[:, 45, 60], picture[:, 45, 60], atol=0.01, rtol=0)
    torch.testing.assert_close(found[:, 5, 5], RED[:, 0, 0], atol=0.01, rtol=0)


def test_alpha_is_sharper_than_what_the_network_sees(predictor, picture) -> None:
    small = BackgroundReplacer(predictor, RED, size=32)
    alpha = small.alpha(picture)
    probability = small.predictor.probabilities(small._small(picture))[0, 1]
    enlarged = torch.nn.functional.interpolate(probability[None, None], alpha.shape, mode="bilinear")[0, 0]
    truth = (picture[0] > 0.5).float()
    assert (alpha - truth).abs().mean() < 0.5 * (enlarged - truth).abs().mean()


def test_transparent_gives_alpha_as_fourth_channel_and_colours_without_the_old_background(predictor) -> None:
    # The edge pixel is half yellow and half blue: its own colour is yellow.
    image = torch.zeros(3, 40, 60)
    image[:, :, :30] = torch.tensor([1.0, 0.95, 0.6]).view(3, 1, 1)
    image[2, :, 31:] = 0.3
    image[:, :, 30] = (image[:, :, 0] + image[:, :, 59]) / 2
    found = BackgroundReplacer(predictor, "transparent", size=60)(image)
    assert found.shape == (4, 40, 60)
    assert found[3, 20, 5] > 0.99 > 0.01 > found[3, 20, 55]
    assert (found[:3, 20, 30] - image[:, 20, 0]).abs().max() < (
        image[:, 20, 30] - image[:, 20, 0]
    ).abs().max()


def test_a_blurred_background_is_smooth_and_has_no_light_of_the_foreground(predictor, picture) -> None:
    image = picture.clone()
    image[:, ::2, :20] = 0  # stripes far from the disc
    found = BackgroundReplacer(predictor, "blur", size=120)(image)
    assert found[2, :, 5].std() < 0.2 * image[2, :, 5].std()
    torch.testing.assert_close(found[:, 45, 95], picture[:, 45, 95], atol=0.02, rtol=0)  # beside the disc


def test_doubtful_pixels_follow_the_frame_before_and_sure_ones_do_not() -> None:
    before, now = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.5, 0.0, 1.0])
    torch.testing.assert_close(steadied(now, before, 0.8), torch.tensor([0.9, 0.0, 1.0]))
    flicker = torch.tensor([0.7, 0.3] * 10)
    smooth = [flicker[:1]]
    for value in flicker[1:]:
        smooth.append(steadied(value[None], smooth[-1], 0.8))
    assert torch.cat(smooth[10:]).std() < 0.5 * flicker.std()


def test_a_movie_is_steadied_until_the_next_begins(predictor) -> None:
    grey, bright = torch.full((3, 20, 20), 0.5), torch.full((3, 20, 20), 0.9)
    replacer = BackgroundReplacer(predictor, RED, smoothing=0.6)
    replacer.alpha(bright)
    after = replacer.alpha(grey).mean()
    replacer.start()
    alone = replacer.alpha(grey).mean()
    assert after > 0.75
    assert float(alone) == pytest.approx(0.5, abs=0.01)
    photographs = BackgroundReplacer(predictor, RED)
    photographs.alpha(bright)
    assert float(photographs.alpha(grey).mean()) == pytest.approx(0.5, abs=0.01)


def test_what_moves_leaves_no_trail(predictor) -> None:
    from .conftest import disc

    replacer = BackgroundReplacer(predictor, RED, size=120, smoothing=0.9)
    for x in range(30, 100, 10):
        image = disc(90, 120, x)
        alpha = replacer.alpha(image)
    assert (alpha - (image[0] > 0.5).float()).abs().mean() < 0.02


def test_a_background_fills_the_frame_from_its_middle() -> None:
    image = torch.arange(8.0).div(10).expand(3, 4, 8)
    torch.testing.assert_close(filling(image, (4, 4)), image[..., 2:6])
    assert filling(image, (11, 7)).shape == (3, 11, 7)
    assert filling(RED, (5, 9)).shape == (3, 5, 9)


@pytest.mark.parametrize("size", [(90, 121), (33, 400), (9, 9)])
def test_images_of_any_shape_work(predictor, size: tuple[int, int]) -> None:
    for background in (RED, "blur", "transparent"):
        found = BackgroundReplacer(predictor, background, size=64)(torch.rand(3, *size))
        assert tuple(found.shape[1:]) == size
        assert torch.isfinite(found).all()
        assert 0 <= found.min() <= found.max() <= 1


def test_the_foreground_is_people_or_all_but_the_background() -> None:
    assert foreground_classes(ClassTable.of("void", "cat", "person")) == [2]
    assert foreground_classes(ClassTable.of("background", "cat", "dog")) == [1, 2]
    assert foreground_classes(ClassTable.of("sky", "cat"), ["cat"]) == [1]
    with pytest.raises(ValueError, match="Name it by keep"):
        foreground_classes(ClassTable.of("sky", "cat"))
    with pytest.raises(ValueError, match="'cow'"):
        foreground_classes(ClassTable.of("sky", "cat"), ["cow"])


def test_a_background_is_a_word_a_colour_or_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 6), (0, 255, 0)).save(tmp_path / "beach.png")
    assert background_of("blur") == "blur"
    assert background_of("transparent") == "transparent"
    assert background_of("#ff0000").flatten().tolist() == [1, 0, 0]
    assert background_of(str(tmp_path / "beach.png")).shape == (3, 6, 8)
    with pytest.raises(ValueError, match="a picture file or a colour"):
        background_of("beach.jpg")


def test_what_does_not_fit_is_refused(predictor, tmp_path: Path) -> None:
    for wrong in ({"size": 4}, {"smoothing": 1.0}, {"smoothing": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BackgroundReplacer(predictor, "blur", **wrong)
    with pytest.raises(ValueError, match="3 H W"):
        BackgroundReplacer(predictor, "blur")(torch.rand(1, 20, 20))
    (tmp_path / "a.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="not a file of published weights"):
        background_predictor(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="there is no file"):
        background_predictor(tmp_path / "b.pth")
    with pytest.raises(ValueError, match="commercial"):
        background_predictor("sinet_portrait_224x224")


def test_sinets_published_weights_cut_out_the_astronaut(shared_data) -> None:
    from pixelwise.data.formats.image import read_image

    weights = shared_data("weights", "sinet", "SINet.pth")
    image = read_image(shared_data("data", "skimage_images", "astronaut.png"))
    replacer = BackgroundReplacer(background_predictor(weights, allow_noncommercial=True), RED)
    alpha = replacer.alpha(image)
    assert alpha[120, 220] > 0.99  # the face
    assert alpha[400, 150] > 0.95  # the suit
    assert alpha[60, 350] < 0.02  # the wall
    assert alpha[150, 30] < 0.02  # the flag
    assert 0.25 < alpha.mean() < 0.5


class BrightIsMatte(DenseModel):
    """One class, whose share of a pixel is its brightness."""

    gives_alpha = True

    def __init__(self) -> None:
        super().__init__()
        self.num_classes, self.minimum_size = 1, 8
        self.shift = torch.nn.Parameter(torch.tensor(0.0))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> DenseLogits:
        self.seen.append(tuple(image.shape[2:]))
        brightness = image.mean(1, keepdim=True).clamp(0.001, 0.999)
        return DenseLogits(brightness.logit() + self.shift, self.seen[-1])


def test_a_network_of_mattes_gives_alpha_itself() -> None:
    matting = BrightIsMatte()
    predictor = Predictor(matting, ClassTable(("person",), ((255, 0, 0),), exclusive=False))
    replacer = BackgroundReplacer(predictor, RED)
    ramp = torch.linspace(0.1, 0.9, 80).expand(3, 60, 80).contiguous()
    # Neither filtered nor stretched; small pictures are seen as they are.
    torch.testing.assert_close(replacer.alpha(ramp), ramp[0], atol=1e-4, rtol=0)
    assert matting.seen[-1] == (60, 80)
    replacer.alpha(torch.rand(3, 600, 1024))
    assert matting.seen[-1] == (300, 512)
    masks = Predictor(BrightIsNear(), PORTRAIT)
    assert BackgroundReplacer(masks, RED).size == 256


def test_a_ckpt_file_that_nobody_published_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.ckpt").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"mine\.ckpt is not a file of published weights"):
        background_predictor(tmp_path / "mine.ckpt")
