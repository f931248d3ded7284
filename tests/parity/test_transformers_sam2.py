"""SAM 2 with weights of transformers, drawn at random, gives its masks, on images and along a video."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

import pixelwise as pw
from pixelwise.models import SAM2, from_transformers_sam2
from pixelwise.types import Prompts, TrackState

SIDE, HEIGHT, WIDTH = 128, 45, 77  # the networks' square, and frames whose sides are odd
PLACES = [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2]


def drawn(network: nn.Module) -> nn.Module:
    """All weights random, also those that start as constants; objects are visible."""
    torch.manual_seed(5)
    of_layers = {
        id(module.weight) for module in network.modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    }  # fmt: skip
    for key, parameter in network.named_parameters():
        if ("norm" in key and "weight" in key) or key.endswith(".scale"):
            nn.init.normal_(parameter, 1.0, 0.1)
        elif parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.1)
        elif id(parameter) in of_layers:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.normal_(parameter, std=0.5)
    nn.init.constant_(network.mask_decoder.pred_obj_score_head.proj_out.bias, 9.0)
    same = network.shared_image_embedding.positional_embedding
    network.prompt_encoder.shared_embedding.positional_embedding = same  # as in published weights
    return network.eval()


def frames(count: int) -> list[Tensor]:
    """A clip that changes from frame to frame."""
    random = torch.Generator().manual_seed(1)
    first, last = torch.rand(2, 1, 3, HEIGHT, WIDTH, generator=random)
    return [torch.lerp(first, last, number / 10) for number in range(count)]


def seen(model: SAM2, image: Tensor) -> Tensor:
    """The image as the encoder sees it."""
    square = nn.functional.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True)
    return model.normalize(square)


def vision() -> Sam2VisionConfig:
    backbone = Sam2HieraDetConfig(image_size=[SIDE, SIDE])
    return Sam2VisionConfig(backbone_config=backbone, backbone_feature_sizes=PLACES)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    config = Sam2VideoConfig(
        vision_config=vision(),
        prompt_encoder_config={"image_size": SIDE},
        image_size=SIDE,
        memory_attention_rope_feat_sizes=PLACES[-1],
    )
    return drawn(Sam2VideoModel(config))


@pytest.fixture(scope="module")
def ours(theirs: nn.Module) -> SAM2:
    model = pw.from_transformers(theirs)
    assert isinstance(model, SAM2)
    return model


PROMPTS = {
    "a point": Prompts.at([(20, 30)]),
    "three points, the second not on the object": Prompts.of(
        torch.tensor([[[20.5, 30], [1, 2], [60, 11.25]]]), torch.tensor([[1, 0, 1]])
    ),
    "a box": Prompts.of(boxes=torch.tensor([[10.0, 5, 51, 33]])),
    "a box and a point": Prompts.of(torch.tensor([[[20.0, 30]]]), boxes=torch.tensor([[10.0, 5, 51, 33]])),
    "an earlier mask and two points": Prompts.of(
        torch.tensor([[[20.0, 30], [3, 4]]]), masks=torch.linspace(-9, 9, 1024).view(1, 32, 32)
    ),
    "three prompts of a point": Prompts.at([(20, 30), (1, 1), (76, 44)]),
}


@pytest.fixture(scope="module")
def image_models() -> tuple[nn.Module, SAM2]:
    config = Sam2Config(vision_config=vision(), prompt_encoder_config={"image_size": SIDE})
    network = drawn(Sam2Model(config))
    return network, from_transformers_sam2(network.state_dict(), config.to_dict())


@pytest.mark.parametrize("kind", PROMPTS)
def test_masks_in_an_image_are_those_of_transformers(image_models: tuple[nn.Module, SAM2], kind: str) -> None:
    (theirs, ours), prompts = image_models, PROMPTS[kind]
    scale = torch.tensor([SIDE / WIDTH, SIDE / HEIGHT])
    image = frames(1)[0]
    with torch.no_grad():
        found = ours(image, prompts)
        wanted = theirs(
            pixel_values=seen(ours, image),
            input_points=None if prompts.points is None else (prompts.points * scale)[None],
            input_labels=None if prompts.point_labels is None else prompts.point_labels[None],
            input_boxes=None if prompts.boxes is None else (prompts.boxes * scale.repeat(2))[None],
            input_masks=None if prompts.masks is None else prompts.masks[None],
            multimask_output=kind in ("a point", "three prompts of a point"),
        )
    torch.testing.assert_close(found.coarse, wanted.pred_masks[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.iou, wanted.iou_scores[0], atol=1e-4, rtol=0)
    assert wanted.pred_masks.std() > 0.1


def show(theirs: nn.Module, ours: SAM2, score: float) -> None:
    """Make objects visible, or hidden, for both networks."""
    heads = theirs.mask_decoder.pred_obj_score_head.proj_out, ours.mask_decoder.pred_obj_score_head.layers[2]
    for head in heads:
        nn.init.constant_(head.bias, score)


class Both:
    """A clip that both networks follow, with one state each."""

    def __init__(self, theirs: nn.Module, ours: SAM2, count: int) -> None:
        clip = frames(count)
        self.theirs, self.ours = theirs, ours
        with torch.no_grad():
            self.embeddings = [ours.embed(image) for image in clip]
        video = torch.cat([seen(ours, image) for image in clip])
        self.session = Sam2VideoInferenceSession(video, HEIGHT, WIDTH, dtype=torch.float32)
        self.state = TrackState((HEIGHT, WIDTH), count)

    def prompt(self, frame: int, prompts: dict[int, Prompts]) -> float:
        """Give prompts to both; the largest difference of scores there."""
        for number, prompt in prompts.items():
            places, labels = self.ours._points(prompt, self.embeddings[frame])
            inputs = {"point_coords": places[None, :, :-1] * SIDE - 0.5, "point_labels": labels[None, :, :-1]}
            self.session.add_point_inputs(self.session.obj_id_to_idx(number), frame, inputs)
        self.session.obj_with_new_inputs = list(prompts)
        return self.compared(frame, prompts, self.theirs(self.session, frame_idx=frame))

    def follow(self, start: int, *, reverse: bool) -> Iterator[float]:
        """The largest difference of scores in each frame from `start`."""
        for output in self.theirs.propagate_in_video_iterator(self.session, start, reverse=reverse):
            yield self.compared(output.frame_idx, {}, output, reverse=reverse)

    def compared(
        self, frame: int, prompts: dict[int, Prompts], wanted: object, reverse: bool = False
    ) -> float:
        with torch.no_grad():
            self.state, found = self.ours.step(
                self.state, frame, self.embeddings[frame], prompts, reverse=reverse
            )
        assert list(found.objects) == wanted.object_ids
        self.found, self.wanted = found, wanted
        scores = (found.scores - wanted.object_score_logits[:, 0]).abs().max()
        return float(max(scores, (found.coarse - wanted.pred_masks[:, 0]).abs().max()))


@pytest.mark.slow
def test_a_clip_is_followed_both_ways_and_corrected_as_by_transformers(theirs: nn.Module, ours: SAM2) -> None:
    show(theirs, ours, 9.0)
    both = Both(theirs, ours, 10)
    assert both.prompt(3, {1: PROMPTS["a point"], 7: PROMPTS["a box"]}) < 1e-4
    forward = list(both.follow(3, reverse=False))
    backward = list(both.follow(3, reverse=True))
    assert [len(forward), len(backward)] == [7, 4]
    assert max(forward + backward) < 1e-3
    # Each frame has masks of its own, and what is remembered changes them.
    assert both.wanted.pred_masks.std() > 0.1
    alone = ours.masks(both.embeddings[0], Prompts.of(torch.zeros(1, 1, 2), -torch.ones(1, 1).long()))
    assert (alone.coarse[0] - both.found.coarse[0]).abs().amin(0).max() > 0.1
    correction = both.prompt(6, {7: PROMPTS["three points, the second not on the object"]})
    assert correction < 1e-3


@pytest.mark.parametrize("visible", [9.0, pytest.param(-9.0, marks=pytest.mark.slow)])
def test_an_object_that_comes_later_is_followed_as_by_transformers(
    theirs: nn.Module, ours: SAM2, visible: float
) -> None:
    show(theirs, ours, visible)
    both = Both(theirs, ours, 4)
    both.prompt(1, {1: PROMPTS["three points, the second not on the object"]})
    assert max(both.follow(1, reverse=False)) < 1e-3
    both.prompt(2, {2: PROMPTS["a box and a point"]})
    later = [
        (both.found.coarse[1] - both.wanted.pred_masks[1, 0]).abs().max()
        for _ in both.follow(2, reverse=True)
    ]
    assert len(later) == 3
    assert max(later) < 1e-3
    assert bool((both.found.coarse == -1024).all()) is (visible < 0)


@pytest.mark.slow
def test_two_prompted_frames_are_both_remembered_as_by_transformers(theirs: nn.Module, ours: SAM2) -> None:
    show(theirs, ours, 9.0)
    both = Both(theirs, ours, 20)  # longer than the row of pointers
    assert both.prompt(0, {1: PROMPTS["a box"]}) < 1e-4
    assert both.prompt(9, {1: PROMPTS["a point"]}) < 1e-4
    assert max(both.follow(0, reverse=False)) < 1e-3
    assert (both.found.coarse > -1024).all()


def test_other_weights_are_refused(theirs: nn.Module, image_models: tuple[nn.Module, SAM2]) -> None:
    of_images = image_models[0].state_dict()
    of_images.pop("mask_decoder.iou_token.weight")
    with pytest.raises(ValueError, match=r"not that of a SAM 2: .*iou_token"):
        from_transformers_sam2(of_images)
    weights = theirs.state_dict()
    with pytest.raises(ValueError, match="not that of a SAM 2"):
        from_transformers_sam2(nn.Linear(2, 2).state_dict())
    weights.pop("memory_attention.layer_norm.bias")
    with pytest.raises(ValueError, match="not that of a SAM 2"):
        from_transformers_sam2(weights)
