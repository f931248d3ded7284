"""MODNet: the authors' count and layout, norms of two kinds, losses of three branches."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.losses import make_criterion
from pixelwise.models import from_zhkkke, modnet
from pixelwise.models.modnet import IBNorm, MatteLogits, band, matte_losses, semantic_loss
from pixelwise.types import Batch, ClassMasks, ClassTable, LabelMap


def test_parameters_are_as_many_as_the_authors_code_has() -> None:
    with torch.device("meta"):
        model = modnet(1)
    assert sum(p.numel() for p in model.parameters()) == 6_487_075


def norm(key: str, c: int) -> dict[str, tuple[int, ...]]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{key}.{name}": (c,) for name in names} | {f"{key}.num_batches_tracked": ()}


def authors_table() -> dict[str, tuple[int, ...]]:
    """src/models/modnet.py and backbones/mobilenetv2.py of ZHKKKe/MODNet: names and shapes."""
    trunk = {"0.0.weight": (32, 3, 3, 3)} | norm("0.1", 32)
    c_in, number = 32, 0
    settings = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    for expansion, c, count in settings:
        for _ in range(count):
            number += 1
            inner, at = c_in * expansion, 0
            if expansion > 1:
                trunk |= {f"{number}.conv.0.weight": (inner, c_in, 1, 1)} | norm(f"{number}.conv.1", inner)
                at = 3
            trunk |= {f"{number}.conv.{at}.weight": (inner, 1, 3, 3)} | norm(f"{number}.conv.{at + 1}", inner)
            trunk |= {f"{number}.conv.{at + 3}.weight": (c, inner, 1, 1)} | norm(f"{number}.conv.{at + 4}", c)
            c_in = c
    trunk |= {"18.0.weight": (1280, 320, 1, 1)} | norm("18.1", 1280)
    table = {f"backbone.model.features.{key}": shape for key, shape in trunk.items()}
    table |= {f"lr_branch.{key}": shape for key, shape in table.items()}
    table |= {"lr_branch.se_block.fc.0.weight": (320, 1280), "lr_branch.se_block.fc.2.weight": (1280, 320)}

    def conv(key: str, c_in: int, c_out: int, kernel: int = 3, *, normed: bool = True) -> None:
        nonlocal table
        table |= {f"{key}.layers.0.weight": (c_out, c_in, kernel, kernel), f"{key}.layers.0.bias": (c_out,)}
        if normed:
            table |= norm(f"{key}.layers.1.bnorm", c_out // 2)

    conv("lr_branch.conv_lr16x", 1280, 96, 5)
    conv("lr_branch.conv_lr8x", 96, 32, 5)
    conv("lr_branch.conv_lr", 32, 1, normed=False)
    conv("hr_branch.tohr_enc2x", 16, 32, 1)
    conv("hr_branch.conv_enc2x", 35, 32)
    conv("hr_branch.tohr_enc4x", 24, 32, 1)
    conv("hr_branch.conv_enc4x", 64, 64)
    for i, sizes in enumerate(((99, 64), (64, 64), (64, 32))):
        conv(f"hr_branch.conv_hr4x.{i}", *sizes)
    for i, sizes in enumerate(((64, 64), (64, 32), (32, 32), (32, 32))):
        conv(f"hr_branch.conv_hr2x.{i}", *sizes)
    conv("hr_branch.conv_hr.0", 35, 32)
    conv("hr_branch.conv_hr.1", 32, 1, 1, normed=False)
    conv("f_branch.conv_lr4x", 32, 32, 5)
    conv("f_branch.conv_f2x", 64, 32)
    conv("f_branch.conv_f.0", 35, 16)
    conv("f_branch.conv_f.1", 16, 1, 1, normed=False)
    return table


def test_every_tensor_of_the_authors_arrives_once() -> None:
    numbers = {key: float(i) for i, key in enumerate(authors_table())}
    weights = {f"module.{k}": torch.full((), numbers[k]).expand(s) for k, s in authors_table().items()}
    model = from_zhkkke(weights)
    state = model.state_dict()
    found = sorted(x.flatten()[0].item() for key, x in state.items() if ".normalize." not in key)
    assert found == sorted(n for key, n in numbers.items() if not key.startswith("lr_branch.backbone."))
    for theirs, ours in {
        "backbone.model.features.1.conv.3.weight": "encoder.body.blocks.0.0.conv_pw.weight",
        "backbone.model.features.8.conv.7.bias": "encoder.body.blocks.3.1.bn3.bias",
        "backbone.model.features.18.1.running_mean": "low.top.1.running_mean",
        "lr_branch.conv_lr.layers.0.bias": "low.head.bias",
        "hr_branch.conv_hr2x.3.layers.1.bnorm.weight": "high.at2.3.1.batch_norm.weight",
        "f_branch.conv_f.1.layers.0.weight": "fusion.head.1.weight",
    }.items():
        assert state[ours].flatten()[0] == numbers[theirs], theirs
    assert (state["encoder.normalize.mean"] == 0.5).all()
    assert (state["encoder.normalize.std"] == 0.5).all()
    assert model.built_by.arguments == {"num_classes": 1, "in_channels": 3, "width": 32}
    assert not model.training


def test_other_weights_are_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="state_dict is not that of a MODNet"):
        from_zhkkke(nn.Linear(2, 2).state_dict())


def test_half_of_the_channels_know_the_data_and_half_the_image() -> None:
    torch.manual_seed(0)
    layer, x = IBNorm(5).eval(), torch.randn(2, 5, 6, 7) * 3 + 1
    nn.init.normal_(layer.batch_norm.running_mean)
    with torch.no_grad():
        found = layer(x)
        torch.testing.assert_close(found[:, :2], layer.batch_norm(x[:, :2]))
        torch.testing.assert_close(found[:, 2:], F.instance_norm(x[:, 2:]))
        assert layer(x[:, :, :1, :1])[:, 2:].abs().max() == 0  # of one pixel nothing is left


def test_branches_speak_in_training_only() -> None:
    torch.manual_seed(1)
    model = modnet(2, encoder="tiny", width=4)
    image = torch.rand(2, 3, 49, 70)
    output = model.train()(image)
    assert output.semantic is not None
    assert output.detail is not None
    assert tuple(output.semantic.shape[2:]) == (4, 5)
    assert output.detail.shape == output.coarse.shape == (2, 2, 49, 70)
    quiet = model.eval()(image)
    assert quiet.semantic is quiet.detail is None
    assert matte_losses(quiet, Batch.of(image, torch.zeros(2, 49, 70, dtype=torch.long))) == {}


def square() -> tuple[Tensor, Tensor]:
    matte = torch.zeros(1, 1, 40, 60)
    matte[..., 10:30, 20:45] = 1
    return torch.rand(1, 3, 40, 60), matte


def test_losses_are_those_of_the_authors_code_with_the_band_for_a_trimap() -> None:
    """The formulas of src/trainer.py, where the trimap is 0.5 in the band."""
    torch.manual_seed(2)
    image, matte = square()
    semantic, detail, scores = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 40, 60), torch.randn(1, 1, 40, 60)
    output = MatteLogits(scores, (40, 60), semantic=semantic, detail=detail)
    parts = matte_losses(output, Batch.of(image, ClassMasks(matte.long())))
    certain = ~band(matte)
    alpha = scores.sigmoid()
    at_edge = torch.where(certain, matte, alpha)
    seen = 2 * image - 1
    expected = F.l1_loss(alpha, matte) + 4 * F.l1_loss(at_edge, matte)
    expected += F.l1_loss(seen * alpha, seen * matte) + 4 * F.l1_loss(seen * at_edge, seen * matte)
    torch.testing.assert_close(parts["matte"], expected)
    at_edge = torch.where(certain, matte, detail.sigmoid())
    torch.testing.assert_close(parts["detail"], 10 * F.l1_loss(at_edge, matte))
    small = F.interpolate(matte, (3, 4), mode="bilinear")
    line = torch.tensor([1.0, 2.0, 1.0])  # roughly the blur
    blurred = F.conv2d(F.pad(small, (1,) * 4, mode="reflect"), (line[:, None] * line / 16)[None, None])
    torch.testing.assert_close(
        parts["semantics"], 10 * F.mse_loss(semantic.sigmoid(), blurred), rtol=0.01, atol=0.01
    )


def test_the_band_lies_around_the_edge_and_unknown_pixels_count_nowhere() -> None:
    torch.manual_seed(3)
    image, matte = square()
    near = band(matte)
    assert near[0, 0, 9, 30]
    assert near[0, 0, 10, 30]
    assert not near[0, 0, 20, 32]
    assert not near[0, 0, 0, 0]
    labels = matte[:, 0].long()
    labels[:, :, 48:] = 255
    scores, semantic, detail = torch.randn(1, 2, 40, 60), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 40, 60)
    changed = [x.clone() for x in (scores, semantic, detail)]
    changed[0][..., 48:] += 9
    changed[1][..., 7:] += 9
    changed[2][..., 48:] += 9
    batch = Batch.of(image, LabelMap(labels))
    parts = [
        matte_losses(MatteLogits(a, (40, 60), semantic=b, detail=c), batch)
        for a, b, c in ((scores, semantic, detail), changed)
    ]
    assert parts[0] == parts[1]
    assert all(part > 0 for part in parts[0].values())


def test_a_small_map_is_blurred_too() -> None:
    matte = torch.ones(1, 1, 9, 20)
    assert semantic_loss(torch.zeros(1, 1, 1, 2), matte, matte > 0).item() == pytest.approx(0.25)


def test_training_takes_the_papers_losses_without_being_told() -> None:
    torch.manual_seed(4)
    image, matte = square()
    model = modnet(1, encoder="tiny", width=4).train()
    classes = ClassTable(("person",), ((255, 0, 0),), exclusive=False)
    batch = Batch.of(image, ClassMasks(matte.long()))
    parts = make_criterion("cross_entropy", classes).parts(model(image), batch)
    assert set(parts) == {"cross_entropy", "semantics", "detail", "matte"}
    sum(parts.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
