"""Training data as a network sees them, and a picture of that."""

from PIL import Image

from .. import draw
from ..data import Augmented, SegmentationData, mixings_of, parse_augmentations
from ..recipe import Recipe
from ..tasks import Settings, Task
from ..types import ClassTable, MaskSet

_LEGEND = 24  # classes of which a picture tells the colours
_SIDE = 384  # pixels of the longer side of each image in it


def augmented_data(data: SegmentationData, task: Task, classes: ClassTable, settings: Settings) -> Augmented:
    """Training images under the random changes of a recipe.

    Args:
        data: the training part.
        task: what is learnt.
        classes: of the data.
        settings: of a recipe.

    Raises:
        ValueError: if a change is asked for that the task has not.
    """
    if settings["copy_paste"] and task.annotation is not MaskSet:
        raise ValueError(f"copy_paste is for objects with masks, not for the task {task.name}")
    asked = parse_augmentations(settings["augment"])
    return Augmented(
        task.prepare(data, settings),
        task.transform(classes, settings),
        seed=settings["seed"],
        mixings=mixings_of(asked, task.annotation, classes.ignore, settings["copy_paste"]),
    )


def preview(data: SegmentationData, task: Task, recipe: Recipe, *, images: int = 12) -> Image.Image:
    """A picture of the first images as a training sees them: twice each, changed, with their annotations.

    Args:
        data: the training part.
        task: what is learnt.
        recipe: the settings.
        images: how many pictures there are.

    Raises:
        ValueError: if there is no image, one cannot be read, or a change is asked for that the task has not.
    """
    if not len(data):
        raise ValueError("there is no training image to show")
    augmented = augmented_data(data, task, data.classes, vars(recipe))
    different = max(1, min(len(augmented), images // 2))
    panels = []
    for number in range(different):
        index = number * len(augmented) // different  # evenly spread over the data
        for view in range(2):
            sample = augmented[index + view * len(augmented)]
            picture = draw.rgb_image(sample.image, sample.spacing)
            if sample.target is not None:
                picture = task.draw(sample.image, sample.target, data.classes)
            size = " x ".join(map(str, sample.image.shape[1:]))
            panels.append((f"{size}  {sample.id}", _of_one_size(picture)))
    sheet = draw.side_by_side(panels, columns=4)
    if len(data.classes) > _LEGEND:
        return sheet
    return draw.side_by_side([("", sheet), ("", draw.legend(data.classes))], gap=0)


def _of_one_size(picture: Image.Image) -> Image.Image:
    """Small pictures larger, with their pixels seen, and large ones smaller."""
    scale = _SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return picture.resize((width, height), kind)
