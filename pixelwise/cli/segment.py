"""`pixelwise segment`."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from .options import AsJson, Overwrite, Seed, box_of, pairs_of, print_json, watched


def segment(
    image: Annotated[Path, typer.Argument(help="Image file, or .npy (H W or H W c).", show_default=False)],
    method: Annotated[
        str,
        typer.Option(
            help="kmeans, mini_batch_kmeans, mean_shift, dirichlet_gibbs, dirichlet_variational, "
            "normalized_cuts (or ncut), graph_cut, grabcut, mrf, dense_crf, slic, felzenszwalb, watershed, "
            "random_walker or otsu."
        ),
    ] = "kmeans",
    segments: Annotated[
        int | None,
        typer.Option("--segments", "--clusters", help="Number of segments (default that of the method)."),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Colour space: rgb or lab (default lab for three channels).")
    ] = None,
    position: Annotated[
        float | None,
        typer.Option(help="Weight of pixel position relative to colour, for clusters in XYRGB (default 0)."),
    ] = None,
    box: Annotated[
        str | None, typer.Option(metavar="L,T,R,B", help="Box around the foreground in pixels, for grabcut.")
    ] = None,
    strokes: Annotated[
        Path | None,
        typer.Option(
            help="Image of strokes: 0 background, 1 foreground, 2 unknown; or red on foreground and "
            "blue on background of a copy of the image."
        ),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Strength of the pairwise terms, for graph_cut, grabcut and mrf.")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="For mrf: alpha_expansion (default), alpha_beta_swap, icm, belief_propagation, "
            "tree_reweighted, mean_field, gibbs, metropolis_hastings, simulated_annealing or, for two "
            "segments, minimum_cut."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Further argument of the method; may be repeated."),
    ] = None,
    merge: Annotated[
        float | None,
        typer.Option(help="Then merge regions that touch while their mean colours are nearer than this."),
    ] = None,
    min_size: Annotated[
        int | None, typer.Option(help="Then let regions of fewer pixels join their most similar neighbour.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("segments"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Segment one image by a classical method: label PNG, outlines on the image, plot of the energy.

    Example: [bold]pixelwise segment coffee.png --method kmeans --segments 8 --position 0.2[/bold]

    Foreground: [bold]pixelwise segment cat.jpg --method grabcut --box 40,30,300,260[/bold]
    """
    import time

    from ..algorithms.by_name import segment_image
    from ..algorithms.writing import files_of_segmentation, write_segmentation
    from ..console import progress_bar
    from ..data.formats.image import read_any_image
    from ..data.formats.strokes import read_strokes
    from ..files import check_targets

    name = f"{image.stem}_{method}"
    sources = [path for path in (image, strokes) if path is not None and path.exists()]
    targets = files_of_segmentation(out, name).values()
    check_targets(targets, out, sources=sources, overwrite=overwrite)
    pixels = read_any_image(image)
    options = {
        "segments": segments,
        "space": cast(Any, space),
        "position": position,
        "box": box_of(box) if box is not None else None,
        "strokes": read_strokes(strokes) if strokes is not None else None,
        "strength": strength,
        "solver": solver,
        "further": pairs_of(set_),
        "merge": merge,
        "min_size": min_size,
    }
    start = time.perf_counter()
    with progress_bar(method, hidden=as_json or not watched()) as advance:
        found = segment_image(pixels, method, **options, seed=seed, progress=advance)
    seconds = time.perf_counter() - start
    files = write_segmentation(out, name, pixels, found)
    if as_json:
        print_json(
            {
                "method": method,
                "segments": found.num_segments,
                "seconds": seconds,
                "converged": found.converged,
                "objective": found.objective,
                "trace": found.trace,
                "files": {kind: str(path) for kind, path in files.items()},
            }
        )
        return
    ending = "" if found.converged else ", stopped at its limit of steps"
    typer.echo(f"{method}: {found.num_segments} segments in {seconds:.2f} s{ending}")
    for kind, path in files.items():
        typer.echo(f"{kind + ':':<9}{path}")
