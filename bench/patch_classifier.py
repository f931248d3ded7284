"""Seconds of a classifier slid over an image at several strides, and of its dense convolutional form.

    python bench/patch_classifier.py

prints, for an image of 96 x 128 pixels on one thread, the size of each map, its seconds, how many times
longer than the dense form it takes, and the largest difference from the dense form's scores at the same
pixels.
"""

import time

import torch

import pixelwise as pw
from pixelwise.models.patch_classifier import PatchClassifier

SIZE, STRIDES = (96, 128), (16, 8, 4, 2, 1)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = pw.build("patch_classifier", 11).eval()
    assert isinstance(model, PatchClassifier)
    image = torch.rand(1, 3, *SIZE)
    with torch.inference_mode():
        model(image)
        start = time.perf_counter()
        dense = model(image).logits
        seconds = time.perf_counter() - start
        print(f"### patch_classifier, {SIZE[0]} x {SIZE[1]} pixels, 1 thread\n")
        print("| way | map | seconds | over the dense form | largest difference |\n|---|---|---|---|---|")
        print(f"| dense | {SIZE[0]} x {SIZE[1]} | {seconds:.3f} | 1.0 | |")
        for stride in STRIDES:
            start = time.perf_counter()
            slid = model.slide(image, stride)
            taken = time.perf_counter() - start
            difference = (slid - dense[..., ::stride, ::stride]).abs().max().item()
            rows, columns = slid.shape[-2:]
            print(
                f"| slid, stride {stride} | {rows} x {columns} | {taken:.3f} | {taken / seconds:.1f} | "
                f"{difference:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
