"""Data sets that lectures and papers name and that are not read, with the reason and the way round it."""

from collections.abc import Mapping

NOT_READ: Mapping[str, str] = {
    "bach": "BACH's labelled slides are .svs files of up to 60,000 pixels a side: cut them into tiles "
    "(OpenSlide), and put the outlines of ImageScope beside those",
    "coco_text": "COCO-Text tells boxes and outlines of words in a json of its own: write the outlines as "
    "COCO instances",
    "svt": "Street View Text has boxes of words only, and no masks",
    "kaist_text": "the KAIST scene text database is no longer offered by its owners, and copies differ: its "
    "masks of letters open as pairs",
    "sunnybrook": "Sunnybrook's contours are text files over DICOM slices, whose numbers differ from those "
    "of the files in some cases: make volumes and labels of them first",
    "osm_tiles": "OpenStreetMap is no data set of images: save tiles and masks as pairs, or GeoTIFF with "
    "GeoJSON",
    "multiple_sclerosis": "several data sets of multiple sclerosis go by this name (ISBI 2015, MSSEG 2016), "
    "all by registration: their NIfTI files open as volumes",
    "imt": "ultrasound of the intima-media thickness of the carotid has no public data set of masks that is "
    "one standard: masks open as pairs",
}
