"""Words of messages and scores: what a stranger wrote is quoted, but never at any length."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_LONGEST, _MOST = 80, 5
_SCORES = {
    "iou": "IoU",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ar": "AR",
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "dice": "Dice",
    "oks": "OKS",
    "hd95": "HD95",
}


def brief(text: object, longest: int = _LONGEST) -> str:
    """Text in quotes, its middle left out where it is longer than `longest` characters.

    >>> brief("unet"), brief("a" * 5000, longest=9)
    ("'unet'", "'aaaa...aaaa'")
    """
    text = text if isinstance(text, str) else repr(text)
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]}...{text[-half:]}"
    return repr(text)


def some_of(names: Sequence[object], most: int = _MOST) -> str:
    """The first names of a list, and how many more there are.

    >>> some_of(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(str(name) for name in names[:most])
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: the one that looks most like it, or else all.

    >>> meant("kmean", ["kmeans", "otsu"]), meant("x", ["kmeans", "otsu"])
    (', did you mean kmeans?', '; there are kmeans, otsu')
    """
    names = list(known)
    close = get_close_matches(name, names, 1)
    return f", did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"


def score_name(name: str) -> str:
    """A score as people write it.

    >>> score_name("mean_iou")
    'mean IoU'
    """
    return " ".join(_SCORES.get(word.lower(), word) for word in name.split("_"))


def counted(number: int, what: str, several: str = "") -> str:
    """A number and what is counted; `several` is the plural where it is not made with an s.

    >>> counted(1, "image"), counted(2, "image"), counted(2, "class", "classes")
    ('1 image', '2 images', '2 classes')
    """
    return f"{number} {what if number == 1 else several or what + 's'}"
