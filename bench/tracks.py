"""What a tracker of videos keeps, and its time per frame: SAM 2 here and in transformers, random weights.

Both follow one object, prompted in frame 0, with the tiny network at a small square, since what is kept per
frame goes with the square of its side alone: the figures for the published side of 1024 pixels follow.
Times include looking at the frame.
"""

import sys
import time

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers import Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from pixelwise.models import from_transformers_sam2
from pixelwise.types import Prompts, TrackState

SIDE = 128
PUBLISHED = 1024
COUNTS = (25, 50, 100, 200)


def size_of(tensors: object) -> int:
    return sum(x.numel() * x.element_size() for x in pytree.tree_leaves(tensors) if isinstance(x, Tensor))


def main(counts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    places = [[SIDE // stride] * 2 for stride in (4, 8, 16)]
    vision = Sam2VisionConfig(
        backbone_config=Sam2HieraDetConfig(image_size=[SIDE, SIDE]), backbone_feature_sizes=places
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"image_size": SIDE},
        image_size=SIDE,
        memory_attention_rope_feat_sizes=places[-1],
    )
    theirs = Sam2VideoModel(config).eval()
    ours = from_transformers_sam2(theirs.state_dict(), config.to_dict())
    video = torch.rand(max(counts), 3, SIDE, SIDE)
    session = Sam2VideoInferenceSession(ours.normalize(video), SIDE, SIDE, dtype=torch.float32)
    session.add_point_inputs(
        session.obj_id_to_idx(1),
        0,
        {"point_coords": torch.full((1, 1, 1, 2), 40.0), "point_labels": torch.ones(1, 1, 1).int()},
    )
    session.obj_with_new_inputs = [1]
    state = TrackState((SIDE, SIDE), max(counts))
    print("frames  KiB kept here  KiB kept by transformers  ms per frame here  by transformers")
    seconds = [0.0, 0.0]
    for frame in range(max(counts)):
        start = time.perf_counter()
        with torch.no_grad():
            prompts = {1: Prompts.at([(40, 40)])} if frame == 0 else {}
            state, _ = ours.step(state, frame, ours.embed(video[frame : frame + 1]), prompts)
        middle = time.perf_counter()
        theirs(session, frame_idx=frame)
        seconds = [seconds[0] + middle - start, seconds[1] + time.perf_counter() - middle]
        if frame + 1 in counts:
            kept = [size_of(state), size_of(session.output_dict_per_obj)]
            images = session.processed_frames[0].nbytes * (frame + 1)
            mean = [1000 * each / (frame + 1) for each in seconds]
            print(
                f"{frame + 1:6}  {kept[0] / 1024:13.0f}  {(kept[1] + images) / 1024:24.0f}  {mean[0]:17.1f}  "
                f"{mean[1]:15.1f}"
            )
    larger = (PUBLISHED / SIDE) ** 2
    maps = sum(
        memory.features.nbytes + (0 if memory.answer is None else memory.answer.nbytes)
        for track in state.tracks
        for memory in (*track.prompted, *track.recent)
        if memory.features is not None
    )
    kept_large = (size_of(state) + maps * (larger - 1)) / 2**20
    print(f"At a side of {PUBLISHED} pixels the state here takes {kept_large:.1f} MiB.")


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or COUNTS)
