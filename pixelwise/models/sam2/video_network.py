"""SAM 2: the network (Fig. 3) and how its memory bank is filled and asked (Sec. 4, App. D.1)."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ...decode import without_small_holes
from ...encoders.hiera import Hiera
from ...encoders.timm import per_channel
from ...layers import IMAGENET_MEAN, IMAGENET_STD, Normalize, size_of
from ...types import Embedding, Memory, PromptMasks, Prompts, Track, Tracked, TrackingModel, TrackState
from ..detr.transformer import sine_positions, tokens
from ..sam.mask_decoder import Perceptron
from ..sam.prompt_encoder import BOTTOM_RIGHT, NOTHING, TOP_LEFT, PromptEncoder
from .bank import Recalled, keep, recall
from .mask_decoder import MaskDecoder, without_doubt
from .memory import MemoryAttention, MemoryEncoder, sine_of_times

ABSENT = -1024.0  # the score of a mask whose object is not visible
SCALE, SHIFT = 20.0, -10.0  # of masks on their way into the memory
SLOTS = 7  # of memories: prompted frames, and six others by how far away they are
Version = Literal["2.0", "2.1"]


def colors_of(in_channels: int) -> Normalize:
    """ImageNet's mean and standard deviation, averaged over the colours where there are not three."""
    return Normalize(per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels))


class Neck(nn.Module):
    """The maps of the encoder in one width (Fig. 3); only that of stride 16 sees a coarser one."""

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, width, 1) for c in reversed(widths))

    def forward(self, maps: tuple[Float[Tensor, "b _ _ _"], ...]) -> tuple[Float[Tensor, "b c _ _"], ...]:
        """The maps of strides 16, 8 and 4."""
        c5, c4, c3, c2 = (conv(x) for conv, x in zip(self.convs, reversed(maps), strict=True))
        return c4 + F.interpolate(c5, scale_factor=2.0, mode="nearest"), c3, c2


class SAM2(TrackingModel):
    """Image and prompts -> masks; frame after frame -> the same objects (Fig. 3).

    Args:
        encoder: what looks at an image.
        image_size: height and width to which images are brought, a multiple of 32.
        width: channels of the maps.
        memory_width: channels of a memory.
        version: "2.1" also tells how long ago a pointer was, and where a memory is of a hidden object.
    """

    encoder_parts = ("encoder", "neck")
    minimum_size = 1

    def __init__(
        self,
        encoder: Hiera,
        image_size: int = 1024,
        *,
        width: int = 256,
        memory_width: int = 64,
        version: Version = "2.1",
    ) -> None:
        super().__init__()
        if image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, got {image_size}")
        if version not in ("2.0", "2.1"):
            raise ValueError(f"version must be 2.0 or 2.1, got {version!r}")
        self.image_size = image_size
        self.in_channels = encoder.in_channels
        self.normalize = colors_of(encoder.in_channels)
        self.encoder, self.neck = encoder, Neck(encoder.widths, width)
        self.prompt_encoder, self.mask_decoder = PromptEncoder(width), MaskDecoder(width)
        self.memory_attention = MemoryAttention(width, memory_width)
        self.memory_encoder = MemoryEncoder(width, memory_width)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, width))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, width))  # published, and used by nothing
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(SLOTS, 1, 1, memory_width))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, width))
        self.obj_ptr_proj = Perceptron(width, width, width)
        self.mask_downsample = nn.Conv2d(1, 1, 4, stride=4)
        self.no_obj_embed_spatial: nn.Parameter | None = None
        self.obj_ptr_tpos_proj: nn.Linear | None = None
        if version == "2.1":
            self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, memory_width))
            self.obj_ptr_tpos_proj = nn.Linear(width, memory_width)
        for table in (self.no_mem_embed, self.maskmem_tpos_enc, self.no_obj_ptr):
            nn.init.trunc_normal_(table, std=0.02)

    # --- images ---

    def embed(self, image: Float[Tensor, "1 c H W"]) -> Embedding:
        """Look at an image; it is stretched to a square."""
        size = size_of(image, self.minimum_size)
        side = (self.image_size, self.image_size)
        square = F.interpolate(image, side, mode="bilinear", antialias=True)
        coarse, middle, fine = self.neck(self.encoder(self.normalize(square)))
        return Embedding((coarse, self.mask_decoder.conv_s1(middle), self.mask_decoder.conv_s0(fine)), size)

    def masks(self, embedding: Embedding, prompts: Prompts) -> PromptMasks:
        """Three candidates for each prompt where all are one point at most, else one mask for each."""
        masks, iou, _, _ = self._decoded(self._alone(embedding), embedding, prompts)
        if _one_click(prompts) and prompts.masks is None:
            return PromptMasks(masks[:, 1:], iou[:, 1:], embedding.size)
        return PromptMasks(*without_doubt(masks, iou), embedding.size)

    def _alone(self, embedding: Embedding) -> Float[Tensor, "1 c h w"]:
        """The coarsest map of a frame that remembers nothing."""
        return embedding.maps[0] + self.no_mem_embed.view(1, -1, 1, 1)

    def _decoded(
        self,
        coarse: Float[Tensor, "1 c h w"],
        embedding: Embedding,
        prompts: Prompts | None,
        earlier: Float[Tensor, "p 1 _ _"] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `MaskDecoder.forward`; `earlier` are masks beside, or instead of, those of the prompts."""
        if prompts is not None and prompts.masks is not None:
            earlier = prompts.masks[:, None].float().clamp(-32, 32)
        if earlier is not None:
            finest = (embedding.maps[2].shape[2], embedding.maps[2].shape[3])
            earlier = F.interpolate(earlier, finest, mode="bilinear", antialias=True)
        tokens = self.prompt_encoder.points(*self._points(prompts, embedding))
        positions = self.prompt_encoder.positions(coarse.shape[2], coarse.shape[3])
        maps = (coarse + self.prompt_encoder.masks(earlier), embedding.maps[1], embedding.maps[2])
        decoded: tuple[Tensor, Tensor, Tensor, Tensor] = self.mask_decoder(maps, positions, tokens)
        return decoded

    def _points(
        self, prompts: Prompts | None, embedding: Embedding
    ) -> tuple[Float[Tensor, "p n 2"], Int64[Tensor, "p n"]]:
        """Corners of boxes, points and one that is none, as shares of the square; what each of them is."""
        device, dtype = embedding.maps[0].device, embedding.maps[0].dtype
        count = 1 if prompts is None else len(prompts)
        nothing = torch.zeros(count, 1, 2, device=device, dtype=dtype)
        none = torch.full((count, 1), NOTHING, device=device)
        places, labels = [], []
        if prompts is not None and prompts.boxes is not None:
            places.append(prompts.boxes.view(-1, 2, 2))
            labels.append(torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]], device=device).expand(count, -1))
        if prompts is not None and prompts.points is not None and prompts.point_labels is not None:
            places.append(prompts.points)
            labels.append(prompts.point_labels)
        if not places:
            places, labels = [nothing], [none]
        height, width = embedding.size
        shares = torch.cat(places, 1).to(dtype) / torch.tensor([width, height], device=device, dtype=dtype)
        shares = shares + 0.5 / self.image_size
        return torch.cat([shares, nothing], 1), torch.cat([*labels, none], 1)

    # --- videos ---

    def step(
        self,
        state: TrackState,
        frame: int,
        embedding: Embedding,
        prompts: Mapping[int, Prompts],
        *,
        reverse: bool = False,
        fill_holes: int = 0,
    ) -> tuple[TrackState, Tracked]:
        """Go on by one frame; see `TrackingModel`.

        As by the authors, the mask that answers a prompt is remembered without its holes, others with them.
        """
        _check(state, frame, embedding, prompts)
        tracks = {track.object: track for track in state.tracks}
        tracks |= {number: Track(number, ()) for number in prompts if number not in tracks}
        answers, scores = [], []
        for number, track in tracks.items():
            known = {memory.frame: memory for memory in track.prompted}.get(frame)
            if number in prompts or known is None or known.answer is None:
                prompt = prompts.get(number)
                known, answer = self._seen(
                    track, frame, embedding, prompt, state.num_frames, reverse, fill_holes
                )
                tracks[number] = keep(track, known, prompted=prompt is not None)
            else:
                answer = known.answer
            answers.append(answer)
            scores.append(known.score)
        found = Tracked(frame, tuple(tracks), torch.stack(answers), torch.stack(scores), embedding.size)
        return TrackState(state.size, state.num_frames, tuple(tracks.values())), found

    def _seen(
        self,
        track: Track,
        frame: int,
        embedding: Embedding,
        prompt: Prompts | None,
        num_frames: int | None,
        reverse: bool,
        fill_holes: int,
    ) -> tuple[Memory, Float[Tensor, "h4 w4"]]:
        """The memory of one object in a frame, and the scores of its mask."""
        fresh = prompt is not None and _is_fresh(track, frame)
        if prompt is not None and prompt.masks is not None and prompt.points is None and prompt.boxes is None:
            answer, pointer, score = self._given(embedding, prompt.masks)
        elif fresh:
            answer, pointer, score = self._sighted(self._alone(embedding), embedding, prompt)
        else:
            recalled = recall(track, frame, num_frames, reverse=reverse)
            answer, pointer, score = self._sighted(self._recalling(embedding, recalled), embedding, prompt)
        side = (self.image_size, self.image_size)
        filled = without_small_holes(answer[None], fill_holes)[0]
        remembered = answer if prompt is None else filled
        large = F.interpolate(remembered[None, None].float(), side, mode="bilinear")
        mask = (large > 0).float() if prompt is not None else large.sigmoid()
        features = self.memory_encoder(embedding.maps[0], mask * SCALE + SHIFT)[0]
        if self.no_obj_embed_spatial is not None:
            features = features + (score <= 0) * self.no_obj_embed_spatial[0, :, None, None]
        kept = filled if prompt is not None else None
        return Memory(frame, pointer, features.to(torch.bfloat16), kept, score, fresh), filled

    def _recalling(self, embedding: Embedding, recalled: Recalled) -> Float[Tensor, "1 c h w"]:
        """The coarsest map of a frame after attention to memories and pointers."""
        coarse = embedding.maps[0]
        memories, places = [], []
        for away, memory in recalled.memories:
            assert memory.features is not None
            remembered = memory.features[None].to(coarse)
            memories.append(tokens(remembered))
            places.append(sine_positions(remembered) + self.maskmem_tpos_enc[away - 1])
        width = self.maskmem_tpos_enc.shape[-1]
        parts = 0
        if recalled.pointers:
            pointers = torch.stack([memory.pointer for _, memory in recalled.pointers]).to(coarse)
            when = pointers.new_zeros(len(pointers), width)
            if self.obj_ptr_tpos_proj is not None:
                distances = torch.tensor([away for away, _ in recalled.pointers], device=coarse.device)
                times = sine_of_times(distances / recalled.longest, pointers.shape[1])
                when = self.obj_ptr_tpos_proj(times.to(coarse.dtype))
            parts = pointers.numel() // width
            memories.append(pointers.view(1, parts, width))
            places.append(when.repeat_interleave(parts // len(pointers), 0)[None])
        seen: Tensor = self.memory_attention(coarse, torch.cat(memories, 1), torch.cat(places, 1), parts)
        return seen

    def _sighted(
        self, coarse: Float[Tensor, "1 c h w"], embedding: Embedding, prompt: Prompts | None
    ) -> tuple[Float[Tensor, "h4 w4"], Float[Tensor, " c"], Float[Tensor, ""]]:
        """Scores of one mask, the object pointer, and above 0 whether the object is visible."""
        masks, iou, of_masks, visible = self._decoded(coarse, embedding, prompt)
        if prompt is None or _one_click(prompt):
            best = 1 + iou[0, 1:].argmax()
            answer, token = masks[0, best], of_masks[0, best]
        else:
            answer, token = without_doubt(masks, iou)[0][0, 0], of_masks[0, 0]
        answer = torch.where(visible[0] > 0, answer, ABSENT)
        return answer, self._pointer(token, visible[0]), visible[0]

    def _given(
        self, embedding: Embedding, masks: Float[Tensor, "1 h w"]
    ) -> tuple[Float[Tensor, "h4 w4"], Float[Tensor, " c"], Float[Tensor, ""]]:
        """A mask that the user gives, as if it had been found; see `_sighted`."""
        maps = embedding.maps
        side, finest = (self.image_size, self.image_size), (maps[2].shape[2], maps[2].shape[3])
        inside = (masks > 0)[:, None].to(maps[0])
        inside = (F.interpolate(inside, side, mode="bilinear", antialias=True) >= 0.5).to(maps[0])
        answer = F.interpolate(inside * SCALE + SHIFT, finest, mode="bilinear", antialias=True)[0, 0]
        of_masks = self._decoded(maps[0], embedding, None, self.mask_downsample(inside))[2]
        score = inside.amax() * SCALE + SHIFT
        return answer, self._pointer(of_masks[0, 0], score), score

    def _pointer(self, token: Float[Tensor, " c"], score: Float[Tensor, ""]) -> Float[Tensor, " c"]:
        return torch.where(score > 0, self.obj_ptr_proj(token), self.no_obj_ptr[0])


def _one_click(prompts: Prompts) -> bool:
    """Whether prompts may mean several things: one point each at most."""
    return prompts.boxes is None and (prompts.points is None or prompts.points.shape[1] <= 1)


def _is_fresh(track: Track, frame: int) -> bool:
    """Whether a prompt starts anew: where the object was not followed to this frame before."""
    for memory in track.prompted:
        if memory.frame == frame:
            return memory.fresh
    return not track.first <= frame <= track.last


def _check(state: TrackState, frame: int, embedding: Embedding, prompts: Mapping[int, Prompts]) -> None:
    if embedding.size != state.size:
        told = " and ".join(f"{height} x {width}" for height, width in (embedding.size, state.size))
        raise ValueError(f"all frames must have one size, got {told} pixels")
    if frame < 0 or (state.num_frames is not None and frame >= state.num_frames):
        there = "" if state.num_frames is None else f": there are 0 to {state.num_frames - 1}"
        raise ValueError(f"there is no frame {frame}{there}")
    if not state.tracks and not prompts:
        raise ValueError("there is no object to follow: give a prompt for one first")
    for number, prompt in prompts.items():
        if len(prompt) != 1:
            raise ValueError(f"object {number} needs one prompt in frame {frame}, got {len(prompt)}")
