"""`pixelwise serve`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..wording import brief
from .options import Classes, Device

if TYPE_CHECKING:
    from ..serve.collection import Collection
    from ..tasks import Task
    from ..types import ClassTable


def serve(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="CHECKPOINT|RUN|FILE.onnx ...", help="Models to serve.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with a token that clients must send; PIXELWISE_TOKEN does the same."),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="Address of a page that may use the server, such as https://a.b")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the images for the warm-up, in pixels.", min=8)] = 512,
    drain: Annotated[float, typer.Option(help="Seconds for requests under way at the end.", min=0)] = 30.0,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a request may wait and run; large images take long.", min=1)
    ] = 30.0,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that answer, each with its own copy of the models.")
    ] = 1,
    label_studio: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Be Label Studio's ML backend too, at /v1/label-studio/MODEL; the folder has its images.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images to walk through and to label on the page.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data set to walk through on the page, instead of --images.")
    ] = None,
    split: Annotated[str, typer.Option(help="With --data: train, val or test.")] = "val",
    classes: Classes = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(
            help="Scores of each image (`pixelwise evaluate --csv`): the worst come first. Twice: two runs "
            "are compared."
        ),
    ] = None,
    save_to: Annotated[
        Path | None, typer.Option(help="Folder for the labels that are drawn; without it none is saved.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What is labelled: semantic (a class per pixel, the default) or instance (objects that may "
            "overlap, saved as one COCO file)."
        ),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            help="Report of `pixelwise evaluate` or `compare` (.html) to show; its images lead to the page. "
            "Reports of runs are shown anyway."
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: Device = "auto",
) -> None:
    """Serve trained models over HTTP, with a page to try them and to correct labels in the browser.

    Other machines can connect only with --host and a token. Nothing is written without --save-to.

    Example: [bold]pixelwise serve runs/first[/bold]

    Label: [bold]pixelwise serve --images street/images --classes classes.csv --save-to street/masks[/bold]
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would take the core of the others
    import webbrowser

    from ..serve import Limits, read_token, serve as run
    from ..serve.workers import serve_in_processes

    if not runs and images is None and data is None:
        raise ValueError("give a model to serve, or images to label (--images FOLDER --classes FILE)")
    if images is not None and data is not None:
        raise ValueError("give --images or --data, not both")
    labelled = labelled_task(task)
    walked = images if images is not None else data
    if walked is None and (save_to is not None or evaluation):
        raise ValueError("--save-to and --evaluation need images: --images FOLDER or --data FOLDER")

    def collection(of_model: "ClassTable | None") -> "Collection":
        return collection_of(images, data, split, classes, of_model, evaluation or (), save_to, labelled)

    if missing := [path for path in report or () if not path.is_file()]:
        raise ValueError(f"there is no report {missing[0]}")
    token = read_token(token_file) if token_file is not None else os.environ.get("PIXELWISE_TOKEN") or None
    if label_studio is not None and not label_studio.is_dir():
        raise ValueError(f"there is no folder {label_studio}")
    if workers > 1 and walked is not None:
        raise ValueError("labels are drawn and saved through one process: --workers 1")
    settings: dict[str, Any] = {
        "host": host,
        "port": port,
        "token": token,
        "origins": tuple(cors or ()),
        "size": size,
        "drain": drain,
        "limits": Limits(seconds=timeout),
        "images_of_tasks": label_studio,
        "device": device,
        "reports": tuple(report or ()),
    }
    if workers > 1:
        if open_page:
            raise ValueError("--open is for one process: --workers 1")
        serve_in_processes(workers, runs or (), **settings)
    else:
        settings["collection"] = None if walked is None else collection
        settings["opened"] = webbrowser.open if open_page else None
        run(runs or (), save_to=save_to, **settings)


def labelled_task(name: str | None) -> "Task":
    """The task of labels that are drawn by hand; without a name, one class per pixel.

    Raises:
        ValueError: if such labels cannot be drawn.
    """
    from ..tasks import get_task, task_for
    from ..types import LabelMap, MaskSet

    drawn = [task_for(LabelMap), task_for(MaskSet)]
    task = get_task(name)
    if task not in drawn:
        raise ValueError(f"--task takes {' or '.join(one.name for one in drawn)}, got {brief(task.name)}")
    return task


def collection_of(
    images: Path | None,
    data: Path | None,
    split: str,
    classes: Path | None,
    of_model: "ClassTable | None",
    evaluations: Sequence[Path],
    save_to: Path | None,
    task: "Task",
) -> "Collection":
    """The images to walk through, from the options of the command.

    Args:
        images: a folder of images; None where `data` is given.
        data: a data set.
        split: its part.
        classes: file of the class table; None takes that of the model, or of the data set.
        of_model: classes of the model; None where there is none.
        evaluations: files of scores.
        save_to: folder for labels.
        task: what is labelled; see `labelled_task`.

    Raises:
        ValueError: if there are no images or no classes, or a file cannot be read.
    """
    from ..data import LabelEncoding
    from ..data.formats.class_file import read_label_encoding
    from ..predict.writing import find_images
    from ..serve.collection import Collection, images_in, read_scores
    from ..serve.objects import ObjectCollection
    from ..types import MaskSet
    from .evaluate import part_of

    if data is not None:
        given: dict[str, Any] = {}
        _, part = part_of(data, split, task, of_model, None, classes, given)
        encoding = LabelEncoding.of(part.classes)
    else:
        assert images is not None
        if classes is not None:
            encoding = read_label_encoding(classes)
        elif of_model is not None:
            encoding = LabelEncoding.of(of_model)
        else:
            raise ValueError("which classes are there to label? Give their file: --classes classes.csv")
        if task.annotation is MaskSet:
            encoding = LabelEncoding.of(without_background(encoding.classes))
        if save_to is not None and save_to.resolve() == images.resolve():
            raise ValueError("--save-to must be another folder than --images: labels have the images' names")
        found = find_images(images, but=save_to)
        if not found:
            raise ValueError(f"there are no images in {images}")
        part = images_in(images, found, encoding)
    names = [f"{path.parent.name}/{path.stem}" for path in evaluations]
    plain = [path.stem for path in evaluations]
    scores = {
        name: read_scores(path)
        for name, path in zip(plain if len(set(plain)) == len(plain) else names, evaluations, strict=True)
    }
    if len(scores) < len(evaluations):
        raise ValueError(f"two files of scores are called {names[0]}: rename one")
    unknown = scores and not any(pair.id in rows for rows in scores.values() for pair in part.pairs)
    if unknown:
        raise ValueError(
            f"none of the images has scores in {evaluations[0]}: is it another part of the data?"
        )
    made = ObjectCollection if task.annotation is MaskSet else Collection
    return made(part, encoding, save_to, scores)


def without_background(classes: "ClassTable") -> "ClassTable":
    """The classes that objects can have.

    Raises:
        ValueError: if there is none but the background.
    """
    from ..data.shapes import BACKGROUND
    from ..types import ClassTable

    if classes.names[0] not in BACKGROUND:
        return classes
    if len(classes) == 1:
        raise ValueError("the only class is the background: objects need another one")
    return ClassTable(classes.names[1:], classes.colors[1:], classes.ignore)
