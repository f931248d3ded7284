"""GridNet: the authors' numbers, dropped streams, and the networks that are paths through the grid."""

import torch
from torch import Tensor, nn

from pixelwise.layers import fit
from pixelwise.models import gridnet
from pixelwise.models.gridnet import GridNet, TotalDropout


def test_parameters_are_as_many_as_the_authors_code_has() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in gridnet(19).parameters()) == 13_181_097


def test_a_residual_is_dropped_for_the_whole_batch_and_never_rescaled() -> None:
    drop, x = TotalDropout(0.25), torch.randn(3, 2, 4, 5)
    kept = 0
    for _ in range(400):
        y = drop(x)
        assert torch.equal(y, x) or not y.any()
        kept += int(y.any())
    assert 270 < kept < 330
    assert torch.equal(drop.eval()(x), x)


def test_streams_are_dropped_in_training_only() -> None:
    model = gridnet(3, width=4, streams=2, columns=2, drop=1.0)
    for unit in [unit for column in (*model.down[1:], *model.up) for unit in column.horizontal]:
        x = torch.randn(1, unit.residual[0].num_features, 6, 7)
        assert torch.equal(unit.train()(x), x)
        assert not torch.equal(unit.eval()(x), x)


class Cut(nn.Module):
    """A connection that carries nothing: zeros in the shape that the connection would give."""

    def __init__(self, connection: nn.Module) -> None:
        super().__init__()
        self.connection = connection

    def forward(self, x: Tensor) -> Tensor:
        return 0 * self.connection(x)


def cut(model: GridNet, kept: set[tuple[str, int, int]], plain: set[tuple[str, int, int]]) -> None:
    """Cut all connections but `kept`, of which `plain` carry their stream as it is.

    A connection is the kind ("right", "down" or "up"), the column behind it, counted over both halves, and
    the stream behind it.
    """
    for number, column in enumerate((*model.down, *model.up)):
        half = "down" if number < len(model.down) else "up"
        for stream in range(len(column.horizontal)):
            place = ("right", number, stream)
            if place in plain:
                column.horizontal[stream] = nn.Identity()
            elif place not in kept:
                column.horizontal[stream] = Cut(column.horizontal[stream])
        for upper in range(len(column.vertical)):
            stream = upper + 1 if half == "down" else upper
            if (half, number, stream) not in kept:
                column.vertical[upper] = Cut(column.vertical[upper])


def grid() -> tuple[GridNet, Tensor]:
    model = gridnet(3, width=4, streams=3, columns=2).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return model, torch.rand(2, 3, 33, 46)


def same_size(x: Tensor, like: Tensor) -> Tensor:
    return fit(x, (like.shape[-2], like.shape[-1]))


def test_a_convolution_deconvolution_network_is_a_path_through_the_grid() -> None:
    model, image = grid()
    first, last = model.down[0].vertical, model.up[1].vertical
    bottom = [column.horizontal[2] for column in (model.down[1], *model.up)]
    with torch.no_grad():
        whole = model(image).coarse
        x0 = model.stem(image)
        x1 = first[0](x0)
        x2 = first[1](x1)
        for unit in bottom:
            x2 = unit(x2)
        expected = model.head(same_size(last[0](same_size(last[1](x2), x1)), x0))
        kept = {("down", 0, 1), ("down", 0, 2), ("up", 3, 1), ("up", 3, 0)}
        cut(model, kept | {("right", number, 2) for number in (1, 2, 3)}, set())
        torch.testing.assert_close(model(image).coarse, expected)
    assert not torch.allclose(whole, expected)


def test_a_unet_is_the_same_path_with_streams_that_skip() -> None:
    model, image = grid()
    first, last = model.down[0].vertical, model.up[1].vertical
    with torch.no_grad():
        x0 = model.stem(image)
        x1 = first[0](x0)
        x2 = first[1](x1)
        for unit in [column.horizontal[2] for column in (model.down[1], *model.up)]:
            x2 = unit(x2)
        x1 = x1 + same_size(last[1](x2), x1)
        expected = model.head(x0 + same_size(last[0](x1), x0))
        kept = {("down", 0, 1), ("down", 0, 2), ("up", 3, 1), ("up", 3, 0)}
        skips = {("right", number, stream) for number in (1, 2, 3) for stream in (0, 1)}
        cut(model, kept | {("right", number, 2) for number in (1, 2, 3)}, skips)
        torch.testing.assert_close(model(image).coarse, expected)


def test_a_full_resolution_residual_network_is_a_path_too() -> None:
    model, image = grid()
    down, up = model.down, model.up
    with torch.no_grad():
        residual = model.stem(image)  # the residual stream: only ever added to
        pooled = down[0].vertical[0](residual)
        pooled = down[1].horizontal[1](pooled) + down[1].vertical[0](residual)
        for column in up:
            pooled = column.horizontal[1](pooled)
            residual = residual + same_size(column.vertical[0](pooled), residual)
        expected = model.head(residual)
        kept = {("down", 0, 1), ("down", 1, 1), ("up", 2, 0), ("up", 3, 0)}
        pooling = {("right", number, 1) for number in (1, 2, 3)}
        cut(model, kept | pooling, {("right", number, 0) for number in (1, 2, 3)})
        torch.testing.assert_close(model(image).coarse, expected)
