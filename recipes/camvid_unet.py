"""CamVid, 11 classes: a U-Net on a ResNet-18 from random weights, on two CPU cores.

    python recipes/camvid_unet.py path/to/camvid runs/camvid

or the same as one command:

    pixelwise train path/to/camvid --model unet --encoder resnet18 --loss cross_entropy+dice --epochs 28
        --batch-size 4 --crop 256x320 --scale 0.5,1.25 --lr 0.001 --warmup 100 --precision bf16 --workers 1
        --out runs/camvid

Half precision (bf16) halves the time on processors that multiply it in hardware, and costs some on others:
`precision="32"` there.
"""

import sys

from pixelwise.training import Recipe, run


def camvid_unet(
    data: str,
    out: str | None = None,
    *,
    encoder: str = "resnet18",
    epochs: int = 28,
    crop: tuple[int, int] = (256, 320),
    scale: tuple[float, float] = (0.5, 1.25),
    batch_size: int = 4,
    lr: float = 1e-3,
    loss: str = "cross_entropy+dice",
    precision: str = "bf16",
    seed: int = 0,
) -> Recipe:
    """The recipe; arguments are settings of it that are worth trying."""
    return Recipe(data).changed(
        model="unet",
        model_arguments={"encoder": encoder},
        loss=loss,
        lr=lr,
        warmup_steps=100,
        epochs=epochs,
        batch_size=batch_size,
        crop=crop,
        scale=scale,
        precision=precision,
        workers=1,
        seed=seed,
        out=out,
        name="CamVid, U-Net on ResNet-18, from random weights",
    )


if __name__ == "__main__":
    result = run(camvid_unet(*sys.argv[1:3]))
    print(f"mean IoU {result.scores['mean_iou']:.4f} on validation, report: {result.report}")
