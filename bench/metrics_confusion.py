"""Confusion matrices, argmax and decoding against their peers."""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import compare, peer
from torch import Tensor
from torch.nn import functional as F

from pixelwise.decode import confidence, semantic
from pixelwise.metrics import confusion_matrix
from pixelwise.metrics.pixels.confusion import confusion_from_logits
from pixelwise.types import DenseLogits

HEIGHT, WIDTH = 1024, 2048
OVER_C = "at least 4x the C of cityscapesScripts, 60x torchmetrics, 80x SMP"

# What cityscapesScripts compiles (addToConfusionMatrix): one count per pixel in a table of 256 x 256.
ONE_BY_ONE = """
void count(const unsigned char *p, const unsigned char *t, unsigned n, unsigned long long *counts) {
    for (unsigned i = 0; i < n; ++i) counts[256 * t[i] + p[i]] += 1u;
}
"""


def counter_in_c() -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """The loop of cityscapesScripts, compiled with -O3; None without a compiler."""
    folder = tempfile.mkdtemp()
    source, library = Path(folder, "count.c"), Path(folder, "count.so")
    source.write_text(ONE_BY_ONE)
    try:
        subprocess.run(["cc", "-O3", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    count = ctypes.CDLL(str(library)).count

    def counted(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        counts = np.zeros((256, 256), np.uint64)
        addresses = [ctypes.c_void_p(array.ctypes.data) for array in (prediction, target, counts)]
        count(addresses[0], addresses[1], ctypes.c_uint(target.size), addresses[2])
        return counts

    return counted


def smooth(k: int, h: int, w: int, cell: int, noise: float = 0.15) -> Tensor:
    """Scores as a network gives them: blobs of about `cell` pixels and a little noise."""
    coarse = 6 * torch.randn(1, k, h // cell + 2, w // cell + 2)
    fine = F.interpolate(coarse, (h, w), mode="bicubic")
    return fine.add_(torch.randn(1, k, h, w), alpha=noise)


def street_scenes(count: int, k: int, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Targets with smooth regions and an ignored strip, predictions that err along boundaries; uint8."""
    maps = []
    for _ in range(count):
        scores = smooth(k, h, w, cell=64, noise=0)
        wrong = F.interpolate(1.5 * torch.randn(1, k, h // 32, w // 32), (h, w), mode="bicubic")
        target = scores.argmax(1)
        target[:, -h // 12 :] = 255
        maps.append((scores.add_(wrong).argmax(1), target))
    prediction, target = (torch.cat(parts).to(torch.uint8) for parts in zip(*maps, strict=True))
    return prediction, target


def count_ways(prediction: Tensor, target: Tensor, k: int) -> dict[str, Callable[[], Any] | None]:
    """Ours and the peers, for maps of bytes; each peer gets the type that it takes without a cast.

    Maps of these sizes take ours less time than starting a thread: it uses one unless told otherwise.
    """
    wide = prediction.long(), target.long()
    medium = prediction.int(), target.int()
    arrays = prediction.numpy(), target.numpy()
    in_c, torchmetrics, smp, hotcoco = (
        counter_in_c(), peer("torchmetrics"), peer("segmentation_models_pytorch"), peer("hotcoco")
    )  # fmt: skip

    def bincount() -> np.ndarray:
        valid = arrays[1] < k
        cells = k * arrays[1][valid].astype(int) + arrays[0][valid]
        return np.bincount(cells, minlength=k * k).reshape(k, k)

    ours = confusion_matrix(prediction, target, k)
    assert (ours.numpy() == bincount()).all()
    assert torch.equal(confusion_matrix(*wide, k), ours)
    if in_c:
        assert (in_c(*arrays)[:k, :k] == ours.numpy()).all()
    ways: dict[str, Callable[[], Any] | None] = {
        "ours, uint8": lambda: confusion_matrix(prediction, target, k),
        "ours, int32": lambda: confusion_matrix(*medium, k),
        "ours, int64": lambda: confusion_matrix(*wide, k),
        "cityscapesScripts' C, uint8": (lambda: in_c(*arrays)) if in_c else None,
        "np.bincount": bincount,
    }
    if torchmetrics:
        count = torchmetrics.functional.classification.multiclass_confusion_matrix
        assert torch.equal(count(*wide, num_classes=k, ignore_index=255), ours)
        ways["torchmetrics"] = lambda: count(*wide, num_classes=k, ignore_index=255)
    else:
        ways["torchmetrics"] = None
    options = {"mode": "multiclass", "num_classes": k, "ignore_index": 255}
    ways["SMP"] = (lambda: smp.metrics.get_stats(*wide, **options)) if smp else None
    ways["hotcoco"] = hotcoco_way(hotcoco, arrays, k) if hotcoco else None
    return ways


def hotcoco_way(hotcoco: Any, arrays: tuple[np.ndarray, np.ndarray], k: int) -> Callable[[], Any]:
    """Its evaluator of semantic segmentation, fed with the bytes as they are."""

    def counted() -> Any:
        evaluator = hotcoco.semantic.SemanticEval(k, ignore_index=255)
        evaluator.update(arrays[1], arrays[0])
        return evaluator.confusion()

    return counted


def counting(rounds: int, threads: int) -> None:
    prediction, target = street_scenes(1, 19, HEIGHT, WIDTH)
    changes = (prediction.diff() != 0) | (target.diff() != 0)
    title = (
        f"confusion matrix, 1024x2048, 19 classes, {100 * changes.float().mean():.1f} % of neighbours differ"
    )
    compare(title, count_ways(prediction, target, 19), target=OVER_C, rounds=rounds, threads=threads)
    prediction, target = street_scenes(16, 150, 512, 512)
    title = "confusion matrix, 16 x 512x512, 150 classes"
    compare(title, count_ways(prediction, target, 150), target=OVER_C, rounds=rounds, threads=threads)
    noise = [torch.randint(0, 19, (HEIGHT, WIDTH)).to(torch.uint8) for _ in range(2)]
    ways = count_ways(noise[0], noise[1], 19)
    compare(
        "confusion matrix, 1024x2048, 19 classes, pure noise", ways,
        target="at least 0.8x cityscapesScripts", rounds=rounds, threads=threads,
    )  # fmt: skip


def comparing(rounds: int, threads: int) -> None:
    logits = torch.randn(8, 21, 512, 512)
    output = DenseLogits(logits, (512, 512))
    assert torch.equal(semantic(output).labels, logits.argmax(1))
    compare(
        "argmax over 8x21x512x512",
        {
            "ours": lambda: semantic(output),
            "torch.argmax": lambda: logits.argmax(1),
            "torch.max": lambda: logits.max(1),
        },
        target="at least 5x torch", rounds=rounds, threads=threads,
    )  # fmt: skip
    target = F.interpolate(torch.randint(0, 21, (8, 1, 16, 16)).float(), scale_factor=32)[:, 0].long()
    torchmetrics = peer("torchmetrics")

    def in_two_steps() -> Tensor:
        count = torchmetrics.functional.classification.multiclass_confusion_matrix
        return count(logits.argmax(1), target, num_classes=21)

    expected = confusion_matrix(logits.argmax(1), target, 21)
    assert torch.equal(confusion_from_logits(logits, target, threads=threads), expected)
    compare(
        "argmax + confusion matrix from logits 8x21x512x512",
        {
            "ours": lambda: confusion_from_logits(logits, target, threads=threads),
            "argmax + torchmetrics": in_two_steps if torchmetrics else None,
        },
        target="at least 5x argmax + torchmetrics", rounds=rounds, threads=threads,
    )  # fmt: skip


def resizing(rounds: int, threads: int) -> None:
    size = HEIGHT, WIDTH
    for k in (19, 150):
        rounds_here = rounds if k == 19 else max(1, rounds // 3)
        for kind in ("network-like", "noise"):
            coarse = smooth(k, 256, 512, cell=32) if kind == "network-like" else torch.randn(1, k, 256, 512)
            output = DenseLogits(coarse, size)
            assert torch.equal(semantic(output).labels, output.logits.argmax(1))
            compare(
                f"resize 4x + argmax to 1024x2048, {k} classes, {kind}",
                {"ours": lambda o=output: semantic(o), "torch": lambda o=output: o.logits.argmax(1)},
                target="at least 20x on network-like scores, 6x on noise, equal labels",
                rounds=rounds_here, threads=threads,
            )  # fmt: skip
        found, peers = confidence(output), output.logits.softmax(1).amax(1)
        torch.testing.assert_close(found.probability, peers, rtol=2e-6, atol=0)
        compare(
            f"resize 4x + softmax maximum to 1024x2048, {k} classes",
            {"ours": lambda o=output: confidence(o), "torch": lambda o=output: o.logits.softmax(1).max(1)},
            target="at least 10x", rounds=rounds_here, threads=threads,
        )  # fmt: skip


def main(rounds: int = 7) -> None:
    """Print every table at one and at two threads."""
    with torch.no_grad():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for part in (counting, comparing, resizing):
                torch.manual_seed(0)
                part(rounds, threads)


if __name__ == "__main__":
    main()
