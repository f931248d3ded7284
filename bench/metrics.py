"""Every metric and mask operation beside its peers, in one process: all lines of "Metrics and masks".

    python bench/metrics.py [rounds]

Peers come with `pip install .[peers]`. panopticapi, davis2017-evaluation and boundary-iou-api: no package,
so put clones of them on PYTHONPATH. A peer that is not there is told in its row. Sections run alone, too:
`python bench/metrics_rle.py`.
"""

import sys

import metrics_coco
import metrics_confusion
import metrics_davis
import metrics_panoptic
import metrics_rle
import metrics_surface

SECTIONS = (
    metrics_confusion,
    metrics_rle,
    metrics_coco,
    metrics_panoptic,
    metrics_davis,
    metrics_surface,
)


def main(rounds: int = 5) -> None:
    for section in SECTIONS:
        print(f"\n## {section.__doc__.splitlines()[0]}", flush=True)
        section.main(rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
