"""SGR: the three steps against their definition, graphs and word vectors from files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelwise.checkpoint import load, save
from pixelwise.models import sgr, sgr_resnet101
from pixelwise.models.sgr import WORD, SymbolicGraphReasoning, graph_of, normalized
from pixelwise.registry import build
from pixelwise.types import ClassTable

EDGES = ["cat, animal", "dog, animal", "sky"]


def layer_by_hand(layer: SymbolicGraphReasoning, x: Tensor, adjacency: Tensor) -> Tensor:
    """One image, pixel by pixel and node by node, as the equations stand."""
    c, h, w = x.shape
    m, pixels = len(adjacency), x.flatten(1).T
    weight = {name: tensor.flatten(1) for name, tensor in layer.state_dict().items() if tensor.ndim > 1}
    nodes = torch.zeros(m, c)
    for pixel in pixels:
        votes = (weight["vote.weight"] @ pixel + layer.vote.bias).softmax(0)
        for node in range(m):
            nodes[node] += votes[node] * (weight["to_nodes.weight"] @ pixel) / len(pixels)
    joined = torch.cat([nodes.clamp(min=0), layer.words], 1) @ weight["reason.weight"].T
    degree = adjacency.sum(1) + 1
    reasoned = torch.zeros(m, c)
    for node in range(m):
        for other in range(m):
            edge = adjacency[node, other] + (node == other)
            reasoned[node] += edge / (degree[node] * degree[other]).sqrt() * joined[other]
    reasoned = reasoned.clamp(min=0)
    fit = (reasoned @ weight["of_nodes.weight"].T) @ (pixels @ weight["of_pixels.weight"].T).T / c**0.5
    shares = fit.exp() / fit.exp().sum(1, keepdim=True)
    shares = shares / shares.sum(0)
    told = shares.T @ (reasoned @ weight["to_pixels.weight"].T)
    return x + told.clamp(min=0).T.reshape(c, h, w)


def test_the_layer_is_that_of_the_definition() -> None:
    _, adjacency = graph_of(EDGES)
    layer = SymbolicGraphReasoning(5, adjacency, ["a", "b", "c", "d"])
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    x = torch.randn(2, 5, 3, 4)
    with torch.no_grad():
        expected = torch.stack([layer_by_hand(layer, image, adjacency) for image in x])
        torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)
        told = (layer(x) - x).flatten(2)
    assert told.std(dim=2).max() > 1e-4  # not every pixel is told the same


def test_a_graph_is_read_from_its_edges() -> None:
    names, adjacency = graph_of(EDGES)
    assert names == ["cat", "animal", "dog", "sky"]
    assert adjacency.nonzero().tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]
    with pytest.raises(ValueError, match="one or two names per line, got 'a, b, c'"):
        graph_of(["a, b, c"])
    with pytest.raises(ValueError, match="one or two names per line, got 'a,'"):
        graph_of(["a,"])


def test_knowledge_flows_along_edges_only() -> None:
    _, adjacency = graph_of(EDGES)
    layer = SymbolicGraphReasoning(4, adjacency, ["cat", "animal", "dog", "sky"])
    torch.nn.init.uniform_(layer.reason.weight)
    nodes = torch.rand(1, 4, 4, requires_grad=True)
    layer.reasoning(nodes.abs())[0, 0].sum().backward()  # what reaches the cat
    reached = nodes.grad[0].any(1).tolist()
    assert reached == [True, True, False, False]


def test_the_normalised_graph_has_a_largest_eigenvalue_of_one() -> None:
    _, adjacency = graph_of(["a, b", "b, c", "c, d", "a, c"])
    assert torch.linalg.eigvalsh(normalized(adjacency)).max().item() == pytest.approx(1, abs=1e-5)


def test_the_size_of_the_image_does_not_change_what_nodes_hear() -> None:
    layer = SymbolicGraphReasoning(4, torch.ones(3, 3), "abc")
    x = torch.rand(1, 4, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(layer.voting(x.repeat(1, 1, 2, 3)), layer.voting(x))


def test_word_vectors_of_a_file_become_the_meanings(tmp_path: Path) -> None:
    model = sgr(2, encoder="tiny", width=4, graph=["cat, traffic-light"])
    numbers = {word: torch.randn(WORD) for word in ("cat", "traffic", "light", "dog")}
    file = tmp_path / "words.vec"
    rows = [" ".join([word, *(f"{x:.6f}" for x in vector.tolist())]) for word, vector in numbers.items()]
    file.write_text("\n".join(["4 300", *rows]))
    model.reasoning.load_word_vectors(file)
    expected = torch.stack([numbers["cat"], (numbers["traffic"] + numbers["light"]) / 2])
    torch.testing.assert_close(model.reasoning.words.detach(), expected, atol=1e-5, rtol=1e-4)
    assert not model.reasoning.words.requires_grad
    file.write_text(rows[0])
    with pytest.raises(ValueError, match=r"words.vec has no vector of 300 numbers for 'light'"):
        model.reasoning.load_word_vectors(file)
    with pytest.raises(ValueError, match="no text file of word vectors"):
        model.reasoning.load_word_vectors(tmp_path / "missing.vec")


def test_a_graph_of_a_file_travels_with_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "graph.txt"
    file.write_text("\n".join(["# knowledge", *EDGES]))
    model = build("sgr", 2, encoder="tiny", width=4, graph=str(file))
    assert model.reasoning.names == ("cat", "animal", "dog", "sky")
    save(model, tmp_path / "model.safetensors", ClassTable.of("a", "b"))
    file.unlink()
    loaded = load(tmp_path / "model.safetensors").model
    assert torch.equal(loaded.reasoning.graph, model.reasoning.graph)
    with pytest.raises(ValueError, match=r"graph must be the path of a text file, got"):
        build("sgr", 2, encoder="tiny", graph=str(file))


def test_the_paper_s_layer_has_256_channels() -> None:
    with torch.device("meta"):
        model = sgr_resnet101(171)
    shapes = {name: tuple(p.shape[:2]) for name, p in model.reasoning.named_parameters() if p.ndim > 1}
    assert shapes["vote.weight"] == (171, 256)
    assert shapes["reason.weight"] == (256, 556)
    assert model.encoder.strides.c5 == 8
