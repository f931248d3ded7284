"""SAM beside segment-anything, with the same random weights: a click, and every object of an image.

python bench/promptable.py [--click] [--everything] [--side 8] [--heart]

The encoder is left out on both sides: it is replaced by one that answers at once. The decoder has the
published size (256 channels, a map of 64 x 64), the image 1200 x 1800 pixels.

With --heart: how soon a small SAM learns one drawn image by heart, with random weights as `sam` begins, and
as those of PyTorch begin. Seconds are processor time.
"""

import argparse
import time
import tracemalloc
from contextlib import nullcontext
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from side_by_side import compare, peer
from torch import Tensor, nn

from pixelwise import build
from pixelwise.losses import loss_parts
from pixelwise.models import from_segment_anything
from pixelwise.models.sam import small
from pixelwise.predict import AutomaticMasks, Predictor
from pixelwise.tasks import get_task
from pixelwise.types import Batch, MaskSet, Prompts

HEIGHT, WIDTH = 1200, 1800


class Known(nn.Module):
    """An encoder that gives the same map for every image."""

    def __init__(self, grid: int, image_size: int) -> None:
        super().__init__()
        self.grid, self.img_size = grid, image_size
        rng = torch.Generator().manual_seed(1)
        coarse = torch.randn(1, 256, 8, 8, generator=rng)
        self.map = nn.functional.interpolate(coarse, (grid, grid), mode="bicubic")

    def forward(self, images: Tensor) -> Tensor:
        """One map for each image."""
        return self.map.expand(len(images), -1, -1, -1)


def pair() -> tuple[Any, Predictor]:
    """The authors' network and ours with its weights, both without an encoder."""
    theirs_package = peer("segment_anything")
    assert theirs_package is not None
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        embed_dim=32,
        depth=1,
        num_heads=2,
        window_size=14,
        use_rel_pos=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
    theirs = Sam(
        encoder,
        PromptEncoder(256, (64, 64), (1024, 1024), 16),
        MaskDecoder(transformer_dim=256, transformer=transformer),
    ).eval()
    theirs.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix *= 0.3
    for name, parameter in theirs.mask_decoder.named_parameters():
        if "output_upscaling" in name and parameter.ndim == 4:
            parameter.data = 3 * parameter.data.mean((2, 3), keepdim=True).repeat(1, 1, 2, 2)
    theirs.mask_decoder.iou_prediction_head.layers[-1].bias.data += 1  # an IoU, so not negative
    ours = from_segment_anything(theirs.state_dict())
    theirs.image_encoder = ours.image_encoder = Known(64, 1024)  # type: ignore[assignment]
    return theirs, Predictor(ours)


def click(theirs: Any, ours: Predictor, image: np.ndarray) -> None:
    """One point: prompt encoder and decoder alone, and to the mask at the size of the image."""
    from segment_anything import SamPredictor

    predictor = SamPredictor(theirs)
    predictor.set_image(image)
    embedded = ours.embed(image)
    points, labels = torch.tensor([[[300.0, 200.0]]]), torch.tensor([[1]])
    prompts, model = Prompts.of(torch.tensor([[[527.0, 351.5]]])), ours.model
    places = model.places(prompts, embedded.embedding.size)

    def their_decoder() -> None:
        with torch.no_grad():
            sparse, dense = theirs.prompt_encoder((points, labels), None, None)
            theirs.mask_decoder(
                image_embeddings=predictor.features,
                image_pe=theirs.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )

    def our_decoder() -> None:
        with torch.no_grad():
            model.decode(embedded.embedding.maps[0], *places)

    compare(
        "a click, prompt encoder and decoder",
        {"pixelwise": our_decoder, "segment-anything": their_decoder},
        target="at most 1.0x segment-anything",
    )
    compare(
        f"a click, to three masks of {HEIGHT} x {WIDTH}",
        {
            "pixelwise": lambda: ours.candidates(embedded, prompts).logits > 0,
            "segment-anything": lambda: predictor.predict_torch(points, labels),
        },
    )


def everything(theirs: Any, ours: Predictor, image: np.ndarray, side: int) -> None:
    """Automatic masks; of each batch about a half of the masks is good enough, as with real weights."""
    from segment_anything import SamAutomaticMaskGenerator

    found = AutomaticMasks(points_per_side=2, min_iou=-9, min_stability=0, box_overlap=1)(ours, image)
    least, steady = float(np.median(found.iou)), float(np.nanquantile(found.stability, 0.3))
    generator = SamAutomaticMaskGenerator(
        theirs,
        points_per_side=side,
        pred_iou_thresh=max(least, 1e-6),
        stability_score_thresh=max(steady, 1e-6),
    )
    find = AutomaticMasks(points_per_side=side, min_iou=max(least, 1e-6), min_stability=max(steady, 1e-6))
    start = np.array([time.perf_counter(), time.process_time()])
    got = find(ours, image)
    between = np.array([time.perf_counter(), time.process_time()])
    expected = generator.generate(image)
    end = np.array([time.perf_counter(), time.process_time()])
    pairs = zip(expected, got.masks, strict=False)
    same = sum(np.array_equal(one["segmentation"], mask.decode()[0]) for one, mask in pairs)
    print(f"\n### every object, {side} x {side} points, {HEIGHT} x {WIDTH}, without the encoder, once\n")
    print(f"{len(expected)} masks, ours {len(got)}, of which {same} are equal to the last pixel")
    for kind, mine, other in zip(("clock", "processor"), between - start, end - between, strict=True):
        print(f"{kind}: ours {mine:.1f} s, segment-anything {other:.1f} s: {other / mine:.2f}x (target: 3x)")


def memory(ours: Predictor, image: np.ndarray) -> None:
    """Largest memory of NumPy arrays over what was there before, for one and for four batches of points."""
    for side in (8, 16):
        find = AutomaticMasks(points_per_side=side, min_iou=-9, min_stability=0)
        tracemalloc.start()
        find(ours, image)
        print(f"{side * side} points: {tracemalloc.get_traced_memory()[1] / 2**20:.0f} MiB of arrays")
        tracemalloc.stop()


def drawn(count: int = 14, side: int = 128) -> Batch:
    """Bright discs on dark ground, none of which touch."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    masks: list[np.ndarray] = []
    while len(masks) < count:
        radius, (row, column) = rng.uniform(5, 11), rng.uniform(8, side - 8, 2)
        disc = np.hypot(rows - row, columns - column)
        if not any((mask & (disc < radius + 2)).any() for mask in masks):
            masks.append(disc < radius)
    image = 0.1 + 0.6 * np.any(masks, 0) + rng.normal(0, 0.05, (3, side, side))
    objects = MaskSet.of(torch.from_numpy(np.stack(masks)), torch.zeros(count, dtype=torch.int64))
    return Batch.of(torch.from_numpy(image).float().clamp(0, 1)[None], [objects])


def by_heart(steps: int = 125, told: int = 25, seeds: int = 1) -> None:
    """The Dice loss of one image over the steps, with both beginnings."""
    task, batch = get_task("promptable"), drawn()
    for seed, told_clicks in product(range(seeds), (True, False)):
        torch.manual_seed(seed)
        with nullcontext() if told_clicks else patch.object(small, "_begin_with_likeness"):
            model = build("sam", image_size=128)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        losses: list[float] = []
        start = time.process_time()
        for _ in range(steps):
            parts = loss_parts(task.forward(model, batch), batch)
            optimizer.zero_grad()
            torch.stack(list(parts.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(parts["dice"].item())
        means = np.reshape(losses, (-1, told)).mean(1)
        beginning = "as sam begins" if told_clicks else "as PyTorch's layers begin"
        print(f"seed {seed}, {beginning}: mean Dice loss of each {told} steps", end=" ")
        print(
            " ".join(f"{mean:.2f}" for mean in means), f"in {time.process_time() - start:.0f} s", flush=True
        )


def main() -> None:
    """Run what was asked for, or all but memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--click", action="store_true")
    parser.add_argument("--everything", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--heart", action="store_true")
    parser.add_argument("--side", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.heart:
        by_heart()
        return
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    theirs, ours = pair()
    some = asked.click or asked.everything or asked.memory
    if asked.click or not some:
        click(theirs, ours, image)
    if asked.everything or not some:
        everything(theirs, ours, image, asked.side)
    if asked.memory:
        memory(ours, image)


if __name__ == "__main__":
    main()
