"""Further rows of the table in `sets.py`: maps, movies, eyes, skin, X-rays, brains, people, saliency."""

from .tree import Part, Row

_NC = "research only"
_CHEST = ("heart", "left lung", "right lung", "left clavicle", "right clavicle")
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
        "levir_cd",
        "LEVIR-CD, buildings that changed between two days",
        parts={
            part: Part(f"{part}/A/{{id}}.png", f"{part}/label/{{id}}.png")
            for part in ("train", "val", "test")
        },
        classes="unchanged changed",
        rule="above-127",
        dates=("A", "B"),
        marks=("train/A", "train/B", "train/label"),
        licence="academic use only",
        commercial=False,
        source="justchenhao.github.io/LEVIR",
        metric="IoU and F1 of the change",
        trap="two images of each place become six channels, that of `A/` before that of `B/`; predict takes "
        "both as one file of six channels",
    ),
    Row(
        "total_text",
        "Total-Text, regions of curved text",
        parts={
            name: Part(
                (f"Images/{word}/{{id}}.jpg", f"Images/{word}/{{id}}.JPG"),
                (f"Text_Region_Mask/{word}/{{id}}.png", f"Text_Region_Mask/{word}/{{id}}.jpg"),
            )
            for name, word in (("train", "Train"), ("test", "Test"))
        },
        classes="background text",
        rule="above-127",
        marks=("Images/Train", "Text_Region_Mask/Train"),
        licence="annotations BSD-3, images for research only",
        commercial=False,
        source="github.com/cs-chan/Total-Text-Dataset",
        metric="DetEval of regions",
        trap="unpack images and masks of text regions into one folder; outlines of words (`.mat`) are not "
        "read",
    ),
    Row(
        "kitti_step",
        "KITTI-STEP, classes of its panoptic maps",
        parts={
            part: Part(
                f"images/{part}/{{sequence}}/{{frame}}.png",
                f"panoptic_maps/{part}/{{sequence}}/{{frame}}.png",
            )
            for part in ("train", "val")
        },
        classes="cityscapes_train_ids",
        rule="first-channel",
        marks=("images/train", "panoptic_maps/train"),
        licence="CC BY-NC-SA 3.0",
        commercial=False,
        source="cvlibs.net/datasets/kitti/eval_step.php",
        metric="mean IoU of 19 classes; STQ of tracks",
        trap="red is the class, green * 256 + blue numbers the object, which is not read",
    ),
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
    Row(
        "aerial_online_maps",
        "Aerial images with labels of online maps: Berlin, Chicago, Paris, Potsdam, Tokyo, Zurich",
        parts={"all": Part("{city}/{id}_image.png", "{city}/{id}_labels.png")},
        classes="aerial_online_maps",
        marks=("berlin/berlin*_image.png", "berlin/berlin*_labels.png"),
        licence="research and education, images of Google Maps",
        commercial=False,
        source="zenodo.org/records/1154821",
        metric="mean IoU, F1 of buildings and roads",
        trap="labels come from OpenStreetMap and are off by some pixels; cities are domains: split by city",
    ),
    # --- objects ----------------------------------------------------------------------------------
    Row(
        "pascal_person_part",
        "Pascal Parts: parts of people",
        parts={"all": Part("JPEGImages/{id}.jpg", "Annotations_Part/{id}.mat")},
        classes="pascal_person_part",
        marks=("JPEGImages", "Annotations_Part"),
        licence="Flickr terms",
        source="roozbehm.info/pascal-parts/pascal-parts.html",
        metric="mean IoU of 7 classes",
        trap="the images are those of VOC 2010; most have no people: lists train.txt (1,716) and val.txt "
        "(1,817) name those that count",
    ),
    Row(
        "vsb100",
        "VSB100, boundaries and regions of movies",
        "",
        licence=_NC,
        commercial=False,
        task="boundaries",
        source="mpi-inf.mpg.de/departments/computer-vision-and-machine-learning/research/image-segmentation",
        score="BoundaryBenchmark",
        metric="BPR, VPR",
        trap="files are those of BSDS500 (`pixelwise.metrics.read_annotations`), scored frame by frame: the "
        "volume precision and recall (VPR) over time are not computed",
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
        official="vessels",
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
        official="vessels",
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
        "scr",
        "SCR: heart, lungs and clavicles in the chest X-rays of JSRT",
        parts={
            "train": Part("JSRT/{id}.png", "scratch/fold1/masks/{layer}/{id}.gif"),
            "test": Part("JSRT/{id}.png", "scratch/fold2/masks/{layer}/{id}.gif"),
        },
        layers={name: name for name in _CHEST},
        overlapping=True,
        marks=("JSRT/JPC*.png", "scratch/fold1/masks/heart"),
        licence="research only, register",
        commercial=False,
        source="isi.uu.nl/Research/Databases/SCR",
        metric="Jaccard index",
        task="multilabel",
        trap="JSRT's .IMG files are raw (2048 x 2048, 16 bits, high byte first, inverted): write them as PNG "
        "first; masks have half the size of the images",
    ),
    Row(
        "monuseg",
        "MoNuSeg, nuclei of many organs",
        "imagescope",
        licence="CC BY-NC-SA 4.0",
        commercial=False,
        source="monuseg.grand-challenge.org",
        metric="AJI, PQ",
        official="monuseg",
        task="instance",
        trap="outlines are XML files (`Annotations/`) for the tiles in `Tissue Images/`; nuclei touch",
    ),
    Row(
        "isbi2012",
        "ISBI 2012, membranes of neurons in a stack of slices",
        "volumes",
        licence="research only, cite",
        source="imagej.net/events/isbi-2012-segmentation-challenge",
        metric="V-Rand and V-Info after thinning",
        score="membrane_scores",
        official="isbi2012",
        classes="isbi2012",
        marks=("train-volume.tif", "train-labels.tif"),
        task="volume",
        trap="labels are 255 inside cells and 0 on membranes; the labels of the test stack are not public",
    ),
    Row(
        "isles2022",
        "ISLES 2022, strokes in MRI",
        "volumes",
        licence="CC BY 4.0",
        commercial=True,
        source="isles22.grand-challenge.org",
        metric="Dice, difference of volumes and of counts of lesions, lesion-wise F1",
        task="volume",
        trap="DWI and ADC are channels; FLAIR has a grid of its own and is left out",
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
        "btcv",
        "BTCV, 13 organs of the abdomen",
        "volumes",
        licence="terms of Synapse, register",
        commercial=False,
        source="synapse.org/Synapse:syn3193805",
        metric="Dice and HD95 of volumes",
        score="SurfaceMetrics",
        classes="btcv",
        marks=("img/img*.nii.gz", "label/label*.nii.gz"),
        task="volume",
        trap="images and labels have other names (`img/img0001`, `label/label0001`); papers with 8 organs on "
        "18 and 12 cases score slices, which is another number",
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
