"""DSSPN: trees from files, the loss of a path, and neurons that nobody asks."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pixelwise.checkpoint import load, save
from pixelwise.models import dsspn, dsspn_resnet101
from pixelwise.models.dsspn import SHIPPED, lines_of, tree_of
from pixelwise.registry import build
from pixelwise.types import Batch, ClassTable, voc_palette

LINES = ["sky", "thing/animal/cat", "thing/animal/dog", "thing/car"]


def test_the_tree_of_voc_has_its_classes_in_their_order() -> None:
    lines = lines_of("voc", SHIPPED, "tree")
    names = [line.rpartition("/")[2] for line in lines]
    assert len(lines) == len(voc_palette(21))
    assert (names[0], names[1], names[15], names[20]) == ("background", "aeroplane", "person", "tvmonitor")
    assert names[1:] == sorted(names[1:])
    with torch.device("meta"):
        model = dsspn_resnet101(21, tree="voc")
    assert [len(concept.children) for concept in model.tree][:2] == [2, 4]
    assert all(len(concept.children) > 1 for concept in model.tree)


def test_inner_nodes_come_parents_first_and_know_their_classes() -> None:
    found = {concept.path: (concept.children, concept.classes) for concept in tree_of(LINES)}
    assert list(found) == [(), ("thing",), ("thing", "animal")]
    assert found[()] == (["sky", "thing"], [[0], [1, 2, 3]])
    assert found["thing",] == (["animal", "car"], [[1, 2], [3]])
    assert found["thing", "animal"] == (["cat", "dog"], [[1], [2]])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a", "b", "a"], "'a' twice"),
        (["a", "a/b"], "'a' twice"),
        (["a/b", "a"], "'a' twice"),
        (["a", "b//c"], "empty name in 'b//c'"),
    ],
)
def test_an_impossible_tree_is_refused(lines: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tree_of(lines)


def test_a_tree_that_does_not_fit_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tree must have 5 classes, got 4"):
        build("dsspn", 5, encoder="tiny", tree=LINES)
    with pytest.raises(ValueError, match=r"tree must be the path of a text file or 'voc', got 'nowhere'"):
        build("dsspn", 4, encoder="tiny", tree="nowhere")
    (tmp_path / "empty.txt").write_text("# nothing")
    with pytest.raises(ValueError, match=r"tree must have a line at least, got none in .*empty.txt"):
        build("dsspn", 4, encoder="tiny", tree=str(tmp_path / "empty.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="tree must be the path of a text file"):
        build("dsspn", 4, encoder="tiny", tree=str(tmp_path / "bytes.txt"))


def test_scores_are_logarithms_of_the_choices_on_the_path() -> None:
    model = dsspn(4, tree=LINES, encoder="tiny", width=8).eval()
    image = torch.rand(1, 3, 65, 43)
    with torch.no_grad():
        root = model.reduce(model.encoder(image).c5)
        x, top = model.neurons[0](root)
        x, thing = model.neurons[1](x)
        _, animal = model.neurons[2](x)
        scores = model(image).coarse
    by_hand = [top[:, 0], top[:, 1] + thing[:, 0] + animal[:, 0],
               top[:, 1] + thing[:, 0] + animal[:, 1], top[:, 1] + thing[:, 1]]  # fmt: skip
    torch.testing.assert_close(scores, torch.stack(by_hand, 1))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones_like(scores[:, 0]))


def test_each_neuron_sees_what_its_ancestors_found() -> None:
    model = dsspn(4, tree=LINES, encoder="tiny", width=8)
    assert [neuron.block[0].num_features for neuron in model.neurons] == [8, 8 + 48, 8 + 96]
    x = torch.rand(1, 8, 5, 6)
    seen, _ = model.neurons[0].eval()(x)
    assert torch.equal(seen[:, :8], x)


def test_neurons_that_no_pixel_asks_are_left_out_without_changing_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = dsspn(4, tree=LINES, encoder="tiny", width=8).train()
    labels = torch.zeros(2, 8, 8, dtype=torch.long)  # of the coarse map: sky and cars, no animals
    labels[:, 4:], labels[:, 0, 0] = 3, 255
    image = torch.rand(2, 3, 64, 64)

    def losses(*given: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        loss = F.cross_entropy(model(*given).coarse, labels, ignore_index=255)
        return loss, list(torch.autograd.grad(loss, list(model.parameters())))

    whole, gradients = losses(image)
    calls = []
    monkeypatch.setattr(model.neurons[2], "forward", lambda x: calls.append(x))
    part, fewer = losses(image, labels)
    assert not calls
    torch.testing.assert_close(part, whole)
    for one, other in zip(gradients, fewer, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_training_tells_the_model_its_labels() -> None:
    batch = Batch.of(torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long))
    model = dsspn(4, tree=LINES, encoder="tiny", width=8).train()
    assert model.inputs(batch)[1] is batch.labels
    below = model(*model.inputs(batch)).coarse.detach()[:, 2] - model(batch.image).coarse.detach()[:, 2]
    assert below.abs().max() > 0
    torch.testing.assert_close(
        model(*model.inputs(batch)).coarse.detach()[:, 1:3].diff(dim=1).abs().max(), torch.tensor(0.0)
    )
    assert math.isclose(len(model.tree), 3)


def test_a_checkpoint_holds_the_tree_that_came_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tree.txt"
    file.write_text("# four classes\n\n" + "\n".join(LINES))
    model = build("dsspn", 4, encoder="tiny", width=8, tree=str(file))
    save(model, tmp_path / "model.safetensors", ClassTable.of(*"abcd"))
    file.unlink()
    assert load(tmp_path / "model.safetensors").model.tree == model.tree
