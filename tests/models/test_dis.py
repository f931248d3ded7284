"""DIS: three losses, and labels that are changed until they explain the image."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from pixelwise.losses import make_criterion
from pixelwise.models import dis, dis_resnet101
from pixelwise.models.dis import DualLogits, cells_of
from pixelwise.types import Batch, ClassMasks, ClassTable


def batch() -> Batch:
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[0, :32], labels[1, :, :32] = 1, 255
    return Batch.of(torch.rand(2, 3, 64, 64), labels)


def test_training_adds_the_losses_of_tags_and_image() -> None:
    model, data = dis(3, encoder="tiny", width=8).train(), batch()
    output = model(data.image)
    parts = make_criterion("cross_entropy", ClassTable.of(*"abc")).parts(output, data)
    assert set(parts) == {"cross_entropy", "aux", "tags", "image"}
    present = torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    torch.testing.assert_close(parts["tags"], F.binary_cross_entropy_with_logits(output.tags, present))
    colors = F.avg_pool2d(data.image, 8)
    torch.testing.assert_close(parts["image"], (output.reconstruction - colors).square().mean())
    evaluated = make_criterion("cross_entropy", ClassTable.of(*"abc")).parts(model.eval()(data.image), data)
    assert set(evaluated) == {"cross_entropy"}


def test_classes_that_are_not_exclusive_are_tags_too() -> None:
    model = dis(2, encoder="tiny", width=8).train()
    masks = torch.zeros(1, 2, 64, 64, dtype=torch.long)
    masks[0, 1, :5] = 1
    data = replace(batch(), image=torch.rand(1, 3, 64, 64), target=ClassMasks(masks))
    output = model(data.image)
    classes = ClassTable(("a", "b"), ((0, 0, 0), (255, 0, 0)), exclusive=False)
    parts = make_criterion("cross_entropy", classes).parts(output, data)
    expected = F.binary_cross_entropy_with_logits(output.tags, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(parts["tags"], expected)


def test_refining_brings_labels_and_image_together_and_leaves_the_weights() -> None:
    torch.manual_seed(1)
    model, image = dis(3, encoder="tiny", width=8).eval(), torch.rand(2, 3, 65, 83)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = []
    model_predict = model.predict

    def watched(u, v):
        labels, tags, reconstruction = model_predict(u, v)
        found.append(F.mse_loss(reconstruction, cells_of(image, reconstruction)).item())
        return labels, tags, reconstruction

    model.predict = watched
    refined = model.refine(image, steps=8, rate=0.5)
    assert isinstance(refined, DualLogits)
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0]
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.predict = model_predict
    with torch.no_grad():
        assert torch.equal(model.refine(image, steps=0).coarse, model(image).coarse)
    with pytest.raises(ValueError, match="eval mode"):
        model.train().refine(image)


def test_images_are_refined_each_for_itself() -> None:
    model, image = dis(3, encoder="tiny", width=8).eval(), torch.rand(2, 3, 64, 64)
    together, alone = model.refine(image, steps=3), model.refine(image[1:], steps=3)
    torch.testing.assert_close(together.coarse[1:], alone.coarse, atol=1e-5, rtol=1e-4)


def test_known_tags_speak_for_their_classes() -> None:
    model, image = dis(3, encoder="tiny", width=8).eval(), torch.rand(1, 3, 64, 64)
    scores = []
    model_predict = model.predict
    model.predict = lambda u, v: scores.append((found := model_predict(u, v))[1].detach()) or found
    model.refine(image, tags=torch.tensor([[False, False, True]]), steps=20, rate=1.0)
    assert scores[-1][0, 2] > scores[0][0, 2]
    assert (scores[-1][0, :2] < scores[0][0, :2]).all()


def test_the_paper_s_network_works_at_stride_8() -> None:
    with torch.device("meta"):
        model = dis_resnet101(21)
    assert model.encoder.strides.c5 == 8
    assert model.label_features[0].weight.shape == (512, 2048, 3, 3)
