"""SegFormer-B0 and Mask2Former on Swin-T beside transformers: time and memory to a result, a training step.

One process, in turn, the same weights (carried over by `from_transformers`) and images. To label maps and to
instances: theirs is the model and the post-processor of transformers, ours the model and `decode`. First the
outputs are compared: scores of both networks, and pixels of both results. (Theirs decodes Mask2Former at
384 x 384 pixels and enlarges what it finds; ours decodes at the size of the image.) A training step is
forward, losses, backward and AdamW. Memory is what a process of its own holds at most during one call, over
what it held before it, by the kernel's count (Linux).

    python bench/transformer_networks.py --sizes 512x512 1024x1024 --rounds 5

It is not called transformers.py, since in its folder other benches would then import it for the library.
"""

import argparse
import multiprocessing
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import compare, peer
from torch import Tensor, nn
from torch.nn import functional as F

import pixelwise as pw
from pixelwise import decode
from pixelwise.losses import PaperCriterion, make_criterion
from pixelwise.training.environment import cpu_name
from pixelwise.types import ClassTable, MaskSet

CLASSES = {"segformer": 150, "mask2former": 80}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
Way = Callable[[], Any]


def their_network(name: str) -> nn.Module:
    """A network of transformers with random weights that do not make every score alike."""
    transformers: Any = peer("transformers")
    torch.manual_seed(0)
    if name == "segformer":
        config = transformers.SegformerConfig(num_labels=CLASSES[name])  # that of B0
        model = transformers.SegformerForSemanticSegmentation(config)
    else:
        config = transformers.Mask2FormerConfig(
            backbone_config=transformers.SwinConfig(depths=[2, 2, 6, 2], out_features=STAGES),
            num_labels=CLASSES[name],
        )
        model = transformers.Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if re.search(r"classifier\.weight|class_predictor\.weight|mask_embedder\.2", key):
                parameter.mul_(20)
    return model.eval()


def ways_of(name: str, result: str, size: tuple[int, int]) -> tuple[dict[str, Way], nn.Module, nn.Module]:
    """Ours and theirs, from an image to a result, and both networks."""
    transformers: Any = peer("transformers")
    theirs = their_network(name)
    ours = pw.from_transformers(theirs)
    image = F.interpolate(torch.rand(1, 3, 16, 16), size, mode="bilinear")
    seen = ours.encoder.normalize(image)  # theirs takes images that are normalised

    def our_result() -> Any:
        with torch.inference_mode():
            output = ours(image)
            return {"labels": decode.labels, "instances": decode.instances}[result](output)

    processors = {
        "segformer": transformers.SegformerImageProcessor,
        "mask2former": transformers.Mask2FormerImageProcessor,
    }
    processor = processors[name]()

    def their_result() -> Any:
        with torch.inference_mode():
            output = theirs(pixel_values=seen)
            if result == "labels":
                return processor.post_process_semantic_segmentation(output, target_sizes=[size])
            return processor.post_process_instance_segmentation(
                output, threshold=0.0, target_sizes=[size], return_binary_maps=True
            )

    return {"pixelwise": our_result, "transformers": their_result}, ours, theirs


def agreement(name: str, ways: dict[str, Way], ours: nn.Module, theirs: nn.Module, result: str) -> str:
    """How alike both results are, in a sentence."""
    image = torch.rand(1, 3, 128, 160)
    with torch.inference_mode():
        output, other = ours(image), theirs(pixel_values=ours.encoder.normalize(image))
    if name == "segformer":
        difference = (output.coarse - other.logits).abs().max()
    else:
        difference = torch.stack(
            [
                (output.class_logits - other.class_queries_logits).abs().max(),
                (output.mask_logits - other.masks_queries_logits).abs().max(),
            ]
        ).max()
    found, expected = ways["pixelwise"](), ways["transformers"]()
    if result == "labels":
        share = (found.labels[0] == expected[0]).float().mean()
        count = len(found.labels.unique())
        told = f"{100 * share:.3f} % of the pixels have the same label, of {count} that are there"
    else:
        told = f"{len(found[0])} instances, {len(expected[0]['segments_info'])} of transformers"
    return f"scores differ by at most {difference:.1e}; {told}"


# --- memory ---------------------------------------------------------------------------------------


def megabytes(field: str) -> float:
    """What the kernel counts for this process: VmRSS, held now, or VmHWM, held at most."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) / 1024


def extra_memory(name: str, result: str, size: tuple[int, int], way: str) -> float:
    """The most that one call holds beyond what the process held before; to be run in a new process."""
    torch.set_num_threads(1)
    small, *_ = ways_of(name, result, (64, 64))
    small[way]()
    ways, *_ = ways_of(name, result, size)
    Path("/proc/self/clear_refs").write_text("5")  # begin to count anew
    before = megabytes("VmRSS")
    ways[way]()
    return megabytes("VmHWM") - before


def compare_memory(name: str, result: str, size: tuple[int, int], target: str) -> None:
    """Print the memory of both, each measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    print("\n| way | MB | over ours |\n|---|---|---|")
    taken = {}
    for way in ("pixelwise", "transformers"):
        with context.Pool(1) as pool:
            taken[way] = pool.apply(extra_memory, (name, result, size, way))
        print(f"| {way} | {taken[way]:.0f} | {taken[way] / taken['pixelwise']:.2f} |", flush=True)
    print(f"\n{target}: {taken['pixelwise'] / taken['transformers']:.2f}", flush=True)


# --- a training step ------------------------------------------------------------------------------


def steps_of(name: str, size: tuple[int, int], objects: int) -> dict[str, Way]:
    """One optimiser step of each on the same image and target."""
    _, ours, theirs = ways_of(name, "labels", size)
    image = torch.rand(1, 3, *size)
    seen = ours.encoder.normalize(image)
    if name == "segformer":
        blocks = torch.randint(0, CLASSES[name], (1, 1, 8, 8)).float()
        target: Any = F.interpolate(blocks, size, mode="nearest")[:, 0].long()
        arguments: dict[str, Any] = {"labels": target}
        table = ClassTable.of(*(f"class {i}" for i in range(CLASSES[name])))
        criterion: PaperCriterion = make_criterion("cross_entropy", table)
    else:
        rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])
        side = size[0] // (objects + 1)
        masks = torch.stack([(rows // side == i) & (columns > i * side) for i in range(objects)])
        classes = torch.arange(objects) % CLASSES[name]
        target = [MaskSet.of(masks, classes)]
        arguments = {"mask_labels": [masks.float()], "class_labels": [classes]}
        criterion = PaperCriterion()
    batch = pw.Batch.of(image, target)

    def our_loss() -> Tensor:
        return criterion(ours(batch.image), batch)

    def their_loss() -> Tensor:
        return theirs(pixel_values=seen, **arguments).loss

    def stepping(model: nn.Module, loss: Callable[[], Tensor]) -> Way:
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-6, fused=True)

        def step() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return step

    return {"pixelwise": stepping(ours, our_loss), "transformers": stepping(theirs, their_loss)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=lambda text: tuple(map(int, text.split("x"))),
        default=[(512, 512), (1024, 1024)],
    )
    parser.add_argument("--networks", nargs="+", choices=list(CLASSES), default=list(CLASSES))
    parser.add_argument(
        "--parts", nargs="+", choices=["time", "memory", "step"], default=["time", "memory", "step"]
    )
    parser.add_argument("--step-size", type=lambda text: tuple(map(int, text.split("x"))), default=(512, 512))
    parser.add_argument("--objects", type=int, default=8, help="in the image of a training step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    transformers = peer("transformers")
    if transformers is None:
        raise SystemExit("transformers is not installed")
    torch.set_num_threads(options.threads)
    print(
        f"{cpu_name()}, Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, pixelwise {pw.__version__}"
    )
    for name in options.networks:
        results = ["labels"] if name == "segformer" else ["labels", "instances"]
        for height, width in options.sizes:
            for result in results:
                title = f"{name}, {height} x {width}, to {result}"
                if "time" in options.parts:
                    ways, ours, theirs = ways_of(name, result, (height, width))
                    print(f"\n{title}: {agreement(name, ways, ours, theirs, result)}")
                    taken = compare(title, ways, rounds=options.rounds, threads=options.threads)
                    share = taken["pixelwise"] / taken["transformers"]
                    print(f"\ntime over that of transformers, at most 0.8: {share:.2f}", flush=True)
                if "memory" in options.parts:
                    print(f"\n### {title}, memory beyond what was held before")
                    compare_memory(
                        name, result, (height, width), "memory over that of transformers, at most 0.6"
                    )
        if "step" in options.parts:
            title = f"{name}, a training step on one image of {options.step_size[0]} x {options.step_size[1]}"
            ways = steps_of(name, options.step_size, options.objects)
            taken = compare(title, ways, rounds=options.rounds, threads=options.threads)
            share = taken["pixelwise"] / taken["transformers"]
            print(f"\ntime over that of transformers, at most 1.0: {share:.2f}", flush=True)


if __name__ == "__main__":
    main()
