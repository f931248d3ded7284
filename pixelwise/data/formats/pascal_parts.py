"""Parts of people in the MATLAB files of Pascal Parts (`Annotations_Part/2008_000003.mat`).

`anno.objects` are the objects of an image, each with its class and `parts`, each with its name and its mask.
Benchmarks join the parts of a person to six (Chen et al., Detect What You Can, CVPR 2014; the split and the
classes of "Pascal Person-Part"): all else is background.
"""

from typing import Any

import numpy as np
from jaxtyping import Int64

PERSON_PARTS = ("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")
_JOINED = {
    1: "head hair leye reye lear rear lebrow rebrow nose mouth",
    2: "neck torso",
    3: "luarm ruarm",
    4: "llarm rlarm lhand rhand",
    5: "luleg ruleg",
    6: "llleg rlleg lfoot rfoot",
}
_LABELS = {name: label for label, names in _JOINED.items() for name in names.split()}


def person_parts(annotation: Any) -> Int64[np.ndarray, "H W"]:
    """The labels of `PERSON_PARTS` in what a file calls `anno`; later parts lie on top, as in the file.

    Raises:
        ValueError: if it is no such annotation.
    """
    try:
        (image,) = annotation
        labels = None
        for thing in image["objects"]:
            mask = thing["mask"]
            if labels is None:
                labels = np.zeros(mask.shape, np.int64)
            if thing["class"] != "person" or not isinstance(thing["parts"], list):
                continue
            for part in thing["parts"]:
                if (label := _LABELS.get(part["part_name"])) is not None:
                    labels[part["mask"] > 0] = label
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"anno is not an annotation of Pascal Parts: {error}") from error
    if labels is None or labels.ndim != 2:
        raise ValueError("anno is not an annotation of Pascal Parts: it has no object with a mask")
    return labels
