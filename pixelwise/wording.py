"""Words of messages and scores: what a stranger wrote is quoted, but never at any length."""

from collections.abc import Sequence

_LONGEST, _MOST = 80, 5

_WORDS = {
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


def label(name: str) -> str:
    """A score as people write it.

    >>> label("mean_iou")
    'mean IoU'
    """
    return " ".join(_WORDS.get(word.lower(), word) for word in name.split("_"))
