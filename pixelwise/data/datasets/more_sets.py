"""Further rows of the table in `sets.py`: movies of objects, eyes, skin, polyps, brains, people, saliency."""

from .tree import Part, Row

_NC = "research only"
_SALIENT = "MAE, F-, S- and E-measure"


def _salient(name: str, title: str, part: Part, source: str, trap: str, *marks: str) -> Row:
    return Row(
        name,
        title,
        parts={"all": part},
        classes="background salient",
        rule="above-127",
        marks=marks,
        licence=_NC,
        commercial=False,
        source=source,
        metric=_SALIENT,
        score="SaliencyMetrics",
        official="saliency",
        trap=trap,
    )


FURTHER = (
    # --- streets and aerial images ----------------------------------------------------------------
    Row(
        "mapillary_vistas",
        "Mapillary Vistas",
        "mapillary",
        licence="CC BY-NC-SA 4.0",
        commercial=False,
        source="mapillary.com/dataset/vistas",
        metric="mean IoU of 65 classes (v1.2) or 123 (v2.0), PQ",
        trap="the config file beside the folders names the classes; v1.2 counts where v2.0 is there too",
    ),
    Row(
        "night_driving",
        "Nighttime Driving, test images",
        parts={
            "test": Part(
                "leftImg8bit/test/{id}_leftImg8bit.png",
                "gtCoarse_daytime_trainvaltest/test/{id}_gtCoarse_labelTrainIds.png",
            )
        },
        classes="cityscapes_train_ids",
        marks=("leftImg8bit/test", "gtCoarse_daytime_trainvaltest/test"),
        licence=_NC,
        commercial=False,
        source="people.ee.ethz.ch/~daid/NightDriving",
        trap="50 images to test on, none to train on",
    ),
    Row(
        "isaid",
        "iSAID, 15 classes in aerial images",
        parts={
            name: Part(
                f"{name}/images/{{id}}.png",
                (
                    f"{name}/Semantic_masks/images/{{id}}_instance_color_RGB.png",
                    f"{name}/images/{{id}}_instance_color_RGB.png",
                ),
            )
            for name in ("train", "val")
        },
        classes="isaid",
        marks=("train/images/P*.png", "train/Semantic_masks"),
        licence="terms of DOTA, academic use only",
        commercial=False,
        source="captain-whu.github.io/iSAID",
        trap="images are up to 4000 pixels wide and more: papers cut patches of 896",
    ),
    # --- movies -----------------------------------------------------------------------------------
    Row(
        "davis2017",
        "DAVIS 2017, objects of each frame",
        parts={
            "all": Part("JPEGImages/480p/{sequence}/{frame}.jpg", "Annotations/480p/{sequence}/{frame}.png")
        },
        classes="object",
        objects=True,
        void=(255,),
        lists={part: (f"ImageSets/2017/{part}.txt",) for part in ("train", "val")},
        marks=("JPEGImages/480p", "Annotations/480p"),
        licence="BSD",
        commercial=True,
        source="davischallenge.org",
        metric="J and F of each object: `pixelwise track --truth`",
        score="DavisMetrics",
        task="instance",
        trap="255 is background; the values of the palette number the objects, also from frame to frame",
    ),
    Row(
        "youtube_vos",
        "YouTube-VOS, objects of each frame",
        parts={
            "train": Part(
                "train/JPEGImages/{sequence}/{frame}.jpg", "train/Annotations/{sequence}/{frame}.png"
            )
        },
        classes="object",
        objects=True,
        void=(255,),
        marks=("train/JPEGImages", "train/Annotations"),
        licence=_NC,
        commercial=False,
        source="youtube-vos.org",
        metric="J and F of seen and unseen classes: `pixelwise track --truth`",
        score="DavisMetrics",
        task="instance",
        trap="every fifth frame is annotated; objects may appear later; of valid only first masks are public",
    ),
    # --- medicine ---------------------------------------------------------------------------------
    Row(
        "stare",
        "STARE, vessels of the retina",
        parts={"all": Part("stare-images/{id}.ppm", "labels-ah/{id}.ah.ppm")},
        classes="background vessel",
        rule="above-127",
        marks=("stare-images/im*.ppm", "labels-ah/*.ah.ppm"),
        licence="not stated",
        source="cecas.clemson.edu/~ahoover/stare",
        metric="AUC, Dice",
        trap="unpack the .gz files first; a second observer is `labels-vk`",
    ),
    Row(
        "hrf",
        "HRF, vessels of the retina",
        parts={"all": Part(("images/{id}.jpg", "images/{id}.JPG"), "manual1/{id}.tif")},
        classes="background vessel",
        rule="above-127",
        marks=("images/01_h.*", "manual1/01_h.tif"),
        licence="not stated",
        source="www5.cs.fau.de/research/data/fundus-images",
        metric="AUC, Dice",
        trap="15 healthy, 15 diabetic and 15 glaucomatous eyes (_h, _dr, _g): split within each group",
    ),
    Row(
        "isic2017",
        "ISIC 2017, lesions of the skin",
        parts={
            name: Part(
                f"ISIC-2017_{folder}_Data/{{id}}.jpg",
                f"ISIC-2017_{folder}_Part1_GroundTruth/{{id}}_segmentation.png",
            )
            for name, folder in (("train", "Training"), ("val", "Validation"), ("test", "Test_v2"))
        },
        classes="background lesion",
        rule="above-127",
        marks=("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"),
        licence="CC0",
        commercial=True,
        source="challenge.isic-archive.com",
        metric="mean Jaccard of images",
        official="per image",
        trap="the folder holds superpixels (`_superpixels.png`) beside the images",
    ),
    Row(
        "cvc_clinicdb",
        "CVC-ClinicDB, polyps",
        parts={
            "all": Part(
                ("Original/{id}.tif", "Original/{id}.png"), ("Ground Truth/{id}.tif", "Ground Truth/{id}.png")
            )
        },
        classes="background polyp",
        rule="above-127",
        marks=("Original", "Ground Truth"),
        licence="research and education",
        source="polyp.grand-challenge.org/CVCClinicDB",
        metric="mean Dice and IoU of images",
        official="per image",
        trap="frames of 31 movies: neighbours look alike, never split them at random",
    ),
    Row(
        "lgg_mri",
        "LGG, gliomas in slices of MRI",
        parts={"all": Part("{patient}/{id}.tif", "{patient}/{id}_mask.tif")},
        classes="background glioma",
        rule="above-127",
        marks=("TCGA_*/TCGA_*_1_mask.tif",),
        licence="CC BY-NC-SA 4.0",
        commercial=False,
        source="kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation",
        metric="Dice of each patient",
        trap="slices of one patient lie in a folder: split by patient",
    ),
    Row(
        "lits",
        "LiTS, tumours of the liver",
        "volumes",
        licence="CC BY-NC-ND 4.0",
        commercial=False,
        source="competitions.codalab.org/competitions/17094",
        metric="Dice per case and global",
        task="volume",
        trap="axes of some files are flipped; cases 27 to 48 are also in 3D-IRCADb",
    ),
    Row(
        "acdc",
        "ACDC, chambers of the heart",
        "volumes",
        licence="research only, register",
        commercial=False,
        source="creatis.insa-lyon.fr/Challenge/acdc",
        metric="Dice, Hausdorff distance",
        score="SurfaceMetrics",
        task="volume",
        trap="two volumes of each patient: split by patient; slices are 5 to 10 mm thick",
    ),
    Row(
        "promise12",
        "PROMISE12, prostate in MRI",
        "volumes",
        licence="research only, register",
        commercial=False,
        source="promise12.grand-challenge.org",
        metric="Dice, HD95, difference of volumes",
        score="SurfaceMetrics",
        task="volume",
        trap="files are MetaImage; the labels of the test part are not public",
    ),
    # --- people -----------------------------------------------------------------------------------
    Row(
        "atr",
        "ATR, clothes of people",
        parts={"all": Part("JPEGImages/{id}.jpg", "SegmentationClassAug/{id}.png")},
        classes="atr",
        licence=_NC,
        commercial=False,
        source="github.com/lemondan/HumanParsing-Dataset",
        trap="a mirrored left arm is a right arm: the class file says so",
    ),
    Row(
        "p3m10k",
        "P3M-10k, portraits",
        parts={
            "train": Part("train/blurred_image/{id}.jpg", "train/mask/{id}.png"),
            "val": Part("validation/P3M-500-P/blurred_image/{id}.jpg", "validation/P3M-500-P/mask/{id}.png"),
            "test": Part(
                "validation/P3M-500-NP/original_image/{id}.jpg", "validation/P3M-500-NP/mask/{id}.png"
            ),
        },
        classes="background person",
        rule="above-127",
        marks=("train/blurred_image", "train/mask"),
        licence="MIT, by agreement",
        commercial=True,
        source="github.com/JizhiziLi/P3M",
        metric="SAD, MSE of the alpha; IoU at 128",
        trap="masks are alpha values: from 128 on they are the person",
    ),
    # --- saliency ---------------------------------------------------------------------------------
    _salient(
        "pascal_s",
        "PASCAL-S",
        Part("datasets/imgs/pascal/{id}.jpg", "datasets/masks/pascal/{id}.png"),
        "cbs.ic.gatech.edu/salobj",
        "masks are shares of observers: from one half on they are salient; copies have other folders",
        "datasets/imgs/pascal",
        "datasets/masks/pascal",
    ),
    _salient(
        "thur15k",
        "THUR15K",
        Part("{kind}/Src/{id}.jpg", "{kind}/Src/{id}.png"),
        "mmcheng.net/gsal",
        "only 6,232 of the 15,000 images have a mask",
        "Butterfly/Src",
        "Giraffe/Src",
    ),
    _salient(
        "judd",
        "JuddDB",
        Part("Imgs/{id}.jpg", "Imgs/{id}.png"),
        "mmcheng.net/salobjbenchmark",
        "laid out as MSRA10K; the objects are small",
    ),
)
