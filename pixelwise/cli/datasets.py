"""`pixelwise datasets`."""

from typing import Annotated, Any

import typer

from .options import AsJson, print_json


def datasets(
    name: Annotated[str | None, typer.Argument(help="A data set, to see the tree it expects.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the data sets that are known by name, with task, layout and licence; or show one of them.

    Nothing is downloaded: `open_data`, `train` and `check` read the tree as its owners ship it.

    Example: [bold]pixelwise datasets ade20k[/bold]
    """
    from ..data.datasets import DATASETS, NOT_READ
    from ..wording import brief, meant

    if name is None:
        rows = list(DATASETS.values())
        if as_json:
            print_json([_as_dict(row) for row in rows])
            return
        width = max(len(row.name) for row in rows)
        for row in rows:
            typer.echo(f"{row.name:<{width}}  {row.task:<10}  {row.title} ({_licence(row)})")
        typer.echo(f"{len(rows)} data sets. `pixelwise datasets NAME` shows the tree that one expects.")
        return
    if name in NOT_READ:
        raise ValueError(f"the data set {name} is not read: {NOT_READ[name]}")
    if name not in DATASETS:
        raise ValueError(f"there is no data set {brief(name)}{meant(name, DATASETS)}")
    row = DATASETS[name]
    if as_json:
        print_json(_as_dict(row))
        return
    typer.echo(f"{row.title}: task {row.task}, {_licence(row)}")
    typer.echo(f"from    {row.source}")
    typer.echo(f"scores  {row.metric}" + (f" (pixelwise.metrics.{row.score})" if row.score else ""))
    if row.official:
        typer.echo("        `pixelwise evaluate` reports them beside the scores of the task")
    if row.trap:
        typer.echo(f"note    {row.trap}")
    if row.parts:
        typer.echo("tree")
        for line in row.tree():
            typer.echo(f"  {line}")
        names = row.table.names
        typer.echo(f"{len(names)} classes: {', '.join(names)}")
        found = "recognised by itself" if row.marks else f"open it with --format {row.name}"
        typer.echo(f"{found}: pixelwise check FOLDER --format {row.name}")
    elif row.layout:
        known = row.name if row.marks else row.layout
        typer.echo(f"layout  {row.layout}, see docs/data.md: pixelwise check FOLDER --format {known}")


def _licence(row: Any) -> str:
    commercial = {True: "commercial use allowed", False: "not for commercial use", None: "terms unclear"}
    return f"{row.licence}: {commercial[row.commercial]}"


def _as_dict(row: Any) -> dict[str, Any]:
    return {
        "name": row.name,
        "title": row.title,
        "task": row.task,
        "layout": row.layout or row.name,
        "licence": row.licence,
        "commercial": row.commercial,
        "source": row.source,
        "metric": row.metric,
        "score": row.score,
        "official": row.official,
        "note": row.trap,
        "tree": row.tree(),
        "classes": list(row.table.names) if row.parts else [],
    }
