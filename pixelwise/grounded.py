"""Segmentation by text: what is named is found as boxes, and each box becomes a mask.

    text -> GroundingDino -> boxes -> any promptable network -> masks        (grounded_sam)
    text -> ClipSeg -> a soft mask for each phrase                           (no boxes, no instances)

This is Grounded SAM (Ren et al. 2024): Grounding DINO (Liu et al., ECCV 2024) and SAM one behind the other,
without common training. Both networks of text are those of transformers (extra `text`), here in a light
wrapper: our images in, our annotations out. Boxes may come from a detector of ours as well.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .data.formats.image import Source, to_tensor
from .layers import IMAGENET_MEAN, IMAGENET_STD, Normalize
from .ops import clip_boxes, non_maximum_suppression
from .predict import Prediction, Predictor
from .tasks.instance import INSTANCE
from .tasks.multilabel import MULTILABEL
from .types import Boxes, ClassMasks, ClassTable, MaskSet, Prompts
from .wording import brief

# Boxes of what the phrases name in an image; the class of a box is the number of its phrase.
BoxFinder = Callable[[Float[Tensor, "3 H W"], Sequence[str]], Boxes]
GROUNDING_DINO = "IDEA-Research/grounding-dino-tiny"
CLIPSEG = "CIDAS/clipseg-rd64-refined"
_SHORT, _LONG = 800, 1333  # sides of the image that Grounding DINO sees, in pixels
_CLIPSEG_SIDE = 352
_SAME = 0.8  # IoU above which two boxes are one


def phrases_of(text: str) -> tuple[str, ...]:
    """The phrases of a prompt, which points, commas or semicolons part.

    Raises:
        ValueError: if there is none, or one is there twice.

    >>> phrases_of("A dog. red ball, Dog leash.")
    ('a dog', 'red ball', 'dog leash')
    """
    phrases = tuple(" ".join(part.lower().split()) for part in re.split(r"[.,;]", text) if part.strip())
    if not phrases:
        raise ValueError(f"a text prompt names what to look for, such as 'dog, red ball', got {brief(text)}")
    if twice := [one for one in phrases if phrases.count(one) > 1]:
        raise ValueError(f"a text prompt names each thing once, got {brief(twice[0])} twice")
    return phrases


class GroundingDino:
    """Text -> boxes, by Grounding DINO.

    Each box belongs to the phrase one of whose words it resembles most, and is as sure as that. (The authors
    put the words of a label together by a second threshold, which joins words of different phrases.)

    Args:
        model: `GroundingDinoForObjectDetection` of transformers.
        tokenizer: its tokenizer, a fast one.
        min_score: boxes that are less sure are left out.
        short_side: of the image that it sees, in pixels, unless the long side would pass `long_side`.
        long_side: see there.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        min_score: float = 0.3,
        short_side: int = _SHORT,
        long_side: int = _LONG,
    ) -> None:
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be in [0, 1], got {min_score}")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.min_score, self.short_side, self.long_side = min_score, short_side, long_side

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str] = GROUNDING_DINO,
        *,
        device: str = "cpu",
        min_score: float = 0.3,
    ) -> "GroundingDino":
        """Published weights by their name on the hub, or from a folder that transformers wrote.

        Raises:
            ValueError: if transformers is not installed, or the weights cannot be had.
        """
        model, tokenizer = _pretrained("GroundingDinoForObjectDetection", name)
        return cls(model.to(device), tokenizer, min_score=min_score)

    def __call__(self, image: Float[Tensor, "3 H W"], phrases: Sequence[str]) -> Boxes:
        """Boxes of what the phrases name, best first.

        Raises:
            ValueError: if the phrases are more than the network reads.
        """
        height, width = image.shape[1:]
        factor = min(self.short_side / min(height, width), self.long_side / max(height, width))
        size = [max(1, round(side * factor)) for side in (height, width)]
        device = next(self.model.parameters()).device
        tokens, words = self._tokens(phrases)
        with torch.no_grad():
            said = self.model(
                pixel_values=_normalized(image, size).to(device),
                pixel_mask=torch.ones(1, *size, dtype=torch.int64, device=device),
                **{name: value.to(device) for name, value in tokens.items()},
            )
        scores = said.logits[0].float().sigmoid().cpu()  # queries, words of the text
        of_phrases = torch.stack([scores[:, numbers].amax(1) for numbers in words], 1)
        best, classes = of_phrases.max(1)
        x, y, w, h = said.pred_boxes[0].float().cpu().unbind(1)
        boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
        boxes = clip_boxes(boxes * torch.tensor([width, height] * 2), (height, width))
        sure = ((best >= self.min_score) & _have_area(boxes)).nonzero()[:, 0]
        kept = sure[non_maximum_suppression(boxes[sure], best[sure], _SAME)]
        return Boxes.of(boxes[kept], classes[kept], best[kept])

    def _tokens(self, phrases: Sequence[str]) -> tuple[dict[str, Tensor], list[list[int]]]:
        """The text as the network reads it, and the places of the words of each phrase."""
        text, spans = "", []
        for phrase in phrases:
            spans.append((len(text), len(text) + len(phrase)))
            text += f"{phrase}. "
        read = self.tokenizer(text.strip(), return_tensors="pt", return_offsets_mapping=True)
        offsets = read.pop("offset_mapping")[0].tolist()
        most = self.model.config.max_text_len
        if len(offsets) > most:
            raise ValueError(
                f"a text prompt has at most {most} parts of words, got {len(offsets)}: ask for less"
            )
        words = [
            [number for number, (first, end) in enumerate(offsets) if start <= first < end <= stop]
            for start, stop in spans
        ]
        if empty := [phrase for phrase, numbers in zip(phrases, words, strict=True) if not numbers]:
            raise ValueError(f"the network has no word for {brief(empty[0])}")
        return dict(read), words


class DetectorBoxes:
    """Boxes of a detector or of instances of ours, as if it had been asked by text.

    Args:
        predictor: of a model that finds objects.
        min_score: boxes that are less sure are left out.

    Raises:
        ValueError: if the model finds no objects.
    """

    def __init__(self, predictor: Predictor, *, min_score: float = 0.3) -> None:
        if predictor.task.annotation not in (Boxes, MaskSet):
            raise ValueError(
                f"boxes come from a model that finds objects, this one is for the task {predictor.task.name}"
            )
        self.predictor, self.min_score = predictor, min_score

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that it knows."""
        return self.predictor.classes.names

    def __call__(self, image: Float[Tensor, "3 H W"], phrases: Sequence[str]) -> Boxes:
        """Boxes of the classes that the phrases name, best first.

        Raises:
            ValueError: if a phrase is none of its classes.
        """
        known = {name.lower(): label for label, name in enumerate(self.names)}
        if unknown := [phrase for phrase in phrases if phrase.lower() not in known]:
            raise ValueError(f"the detector knows {', '.join(self.names)}, not {brief(unknown[0])}")
        found = self.predictor(image).annotation
        boxes = found.boxes if isinstance(found, MaskSet) else found
        assert isinstance(boxes, Boxes)
        asked = torch.full((len(self.names),), -1)
        for number, phrase in enumerate(phrases):
            asked[known[phrase.lower()]] = number
        numbers = asked[boxes.classes]
        inside = clip_boxes(boxes.boxes, (image.shape[1], image.shape[2]))
        boxes = Boxes(inside, numbers, boxes.scores, boxes.is_crowd)
        boxes = boxes.take((numbers >= 0) & (boxes.scores >= self.min_score) & _have_area(boxes.boxes))
        return boxes.take(boxes.scores.argsort(descending=True, stable=True))


def grounded_sam(source: Source, phrases: Sequence[str], find: BoxFinder, segment: Predictor) -> Prediction:
    """Masks of what the phrases name: boxes from the text, and a mask for each box.

    Args:
        source: an image, see `Predictor`.
        phrases: what to look for, one name each; see `phrases_of`.
        find: `GroundingDino`, `DetectorBoxes`, or a function of yours.
        segment: a predictor of a promptable network, such as SAM.

    Returns:
        Instances, whose classes are the phrases and whose scores are those of the boxes.

    Raises:
        ValueError: if the image cannot be read, or the network takes no prompts.
    """
    image = to_tensor(source)
    name = str(source) if isinstance(source, str | os.PathLike) else "image"
    boxes = find(image, phrases)
    if len(boxes):
        answered = segment.masks(segment.embed(image), Prompts.of(boxes=boxes.boxes)).annotation
        assert isinstance(answered, MaskSet)
        masks = MaskSet.of(answered.masks, boxes.classes, boxes.scores)
    else:
        none = torch.zeros(0, *image.shape[1:], dtype=torch.bool)
        masks = MaskSet.of(none, torch.zeros(0, dtype=torch.int64))
    return Prediction(masks, INSTANCE, ClassTable.of(*phrases), image, name)


class ClipSeg:
    """Text -> a soft mask for each phrase, by CLIPSeg (Lüddecke and Ecker, CVPR 2022).

    Args:
        model: `CLIPSegForImageSegmentation` of transformers.
        tokenizer: its tokenizer.
        side: of the square that it sees, in pixels.
    """

    def __init__(self, model: Any, tokenizer: Any, *, side: int = _CLIPSEG_SIDE) -> None:
        self.model, self.tokenizer, self.side = model.eval(), tokenizer, side

    @classmethod
    def load(cls, name: str | os.PathLike[str] = CLIPSEG, *, device: str = "cpu") -> "ClipSeg":
        """Published weights by their name on the hub, or from a folder that transformers wrote.

        Raises:
            ValueError: if transformers is not installed, or the weights cannot be had.
        """
        model, tokenizer = _pretrained("CLIPSegForImageSegmentation", name)
        return cls(model.to(device), tokenizer)

    def __call__(self, source: Source, phrases: Sequence[str], *, threshold: float = 0.5) -> Prediction:
        """The pixels that each phrase names; a pixel may have several, or none.

        Args:
            source: an image, see `Predictor`.
            phrases: what to look for.
            threshold: probability from which a pixel belongs to a phrase.

        Raises:
            ValueError: if the image cannot be read, or a phrase is longer than the network reads.
        """
        image = to_tensor(source)
        name = str(source) if isinstance(source, str | os.PathLike) else "image"
        tokens = self.tokenizer(list(phrases), return_tensors="pt", padding=True)
        most = self.model.config.text_config.max_position_embeddings
        if tokens["input_ids"].shape[1] > most:
            raise ValueError(
                f"a phrase has at most {most} parts of words, got {tokens['input_ids'].shape[1]}"
            )
        device = next(self.model.parameters()).device
        pixels = _normalized(image, [self.side, self.side]).to(device)
        with torch.no_grad():
            logits = self.model(
                pixel_values=pixels.expand(len(phrases), -1, -1, -1),
                input_ids=tokens["input_ids"].to(device),
                attention_mask=tokens["attention_mask"].to(device),
            ).logits
        logits = logits.float().cpu().reshape(1, len(phrases), *logits.shape[-2:])
        probabilities = F.interpolate(logits, image.shape[1:], mode="bilinear")[0].sigmoid()
        classes = ClassTable.of(*phrases)
        classes = ClassTable(classes.names, classes.colors, exclusive=False)
        masks = ClassMasks((probabilities >= threshold).to(torch.uint8), probabilities)
        return Prediction(masks, MULTILABEL, classes, image, name, probabilities)


def _normalized(image: Float[Tensor, "3 H W"], size: list[int]) -> Float[Tensor, "1 3 h w"]:
    """Resized, with ImageNet's mean and standard deviation taken out."""
    resized = F.interpolate(image[None], size, mode="bilinear", antialias=True)
    normalized: Tensor = Normalize(IMAGENET_MEAN, IMAGENET_STD)(resized)
    return normalized


def _have_area(boxes: Float[Tensor, "n 4"]) -> Tensor:
    """Whether a box is at least a pixel wide and high."""
    return (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)


def _pretrained(kind: str, name: str | os.PathLike[str]) -> tuple[Any, Any]:
    """A network of transformers and its tokenizer; weights are read from safetensors only."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ValueError("text prompts need transformers: pip install pixelwise[text]") from error
    with _told(str(name)):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = getattr(transformers, kind).from_pretrained(name, use_safetensors=True)
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {name} does not say where words are: take a fast one")
    return model, tokenizer


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever transformers raises while it reads weights becomes a sentence."""
    try:
        yield
    except Exception as error:  # of a folder or of the hub: anything from OSError to KeyError
        first = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot load {name}: {first}") from error
