"""Tables for the terminal."""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from .paper_recipes import PaperRecipe
from .planning import ClassFacts, Plan, Probe
from .registry import ModelCard
from .summary import ModelInfo
from .types import Report
from .weights import PublishedWeights
from .wording import score_name


def console(*, markup: bool = False) -> Console:
    """Standard output; a pipe gets lines that are long enough for every table.

    Args:
        markup: whether "[bold]" is a style; without it names such as "car [moving]" stay as they are.
    """
    terminal = Console(markup=markup)
    return terminal if terminal.is_terminal else Console(width=160, markup=markup)


@contextmanager
def progress_bar(what: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; call what it gives with the number of steps done and of all."""
    with Progress(console=Console(stderr=True), transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def report_table(report: Report, title: str, remarks: Sequence[str] = ()) -> Table:
    """One line per class, the scores over everything below, and under them the remarks.

    Where classes have no scores of their own, one line per score.
    """
    if not report.per_class:
        table = Table(title=title, title_justify="left", caption_justify="left", min_width=72)
        table.add_column("score")
        table.add_column("", justify="right")
        for name, value in report.values.items():
            table.add_row(score_name(name), _number(value))
        table.caption = "\n".join([report.note, *remarks])
        return table
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("class")
    for column in report.columns:
        table.add_column(column, justify="right")
    for name, row in report.per_class.items():
        table.add_row(name, *map(_number, row.values()))
    table.caption = "\n".join(
        [
            *(f"{score_name(name)} {_number(value)}" for name, value in report.values.items()),
            report.note,
            *remarks,
        ]
    )
    return table


def plain_table(rows: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """One line per row, with a number per column."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in next(iter(rows.values()), {}):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *map(_number, row.values()))
    return table


def print_plan(plan: Plan, title: str, console: Console, *, facts: bool = False) -> None:
    """The facts in a few words, one line per choice with its reason, and the warnings.

    Args:
        plan: to show.
        title: of the data.
        console: to print to.
        facts: whether to show tables of the classes and of the timed steps as well.
    """
    data, machine = plan.situation.data, plan.situation.machine
    console.print(f"{title}: {data.sentence()}", highlight=False)
    if facts:
        console.print(_classes_table(data.classes))
    console.print(f"machine: {machine.sentence()}", highlight=False)
    if facts and machine.probes:
        console.print(_probes_table(machine.probes))
    table = Table()
    table.add_column("choice", no_wrap=True)
    table.add_column("value")
    table.add_column("reason")
    for row in plan.rows:
        table.add_row(row.choice, row.value, row.reason)
    console.print(table)
    for warning in plan.warnings:
        console.print(f"Warning: {warning}.", highlight=False)


def _classes_table(classes: Sequence[ClassFacts]) -> Table:
    """What each class is like."""
    table = Table()
    table.add_column("class")
    for column in ("share", "of the images", "thickness", "small regions", "median region"):
        table.add_column(column, justify="right")
    for one in classes:
        sizes = (f"{x:.0f} px" if math.isfinite(x) else "-" for x in (one.thickness, one.small, one.area))
        table.add_row(one.name, f"{one.share:.2%}", f"{one.images:.0%}", *sizes)
    return table


def _probes_table(probes: Sequence[Probe]) -> Table:
    """What training steps took, small networks first."""
    table = Table()
    table.add_column("timed steps")
    for column in ("crop", "batch", "precision", "s per step", "images per s", "s to validate one", "memory"):
        table.add_column(column, justify="right")
    for one in probes:
        table.add_row(
            one.rung,
            "x".join(map(str, one.crop)) or "whole",
            str(one.batch),
            one.precision,
            f"{one.seconds:.2g}",
            f"{one.batch / one.seconds:.3g}",
            f"{one.validation:.2g}",
            f"{one.memory / 2**20:.0f} MiB" if one.memory else "-",
        )
    return table


def models_table(cards: Sequence[ModelCard], parameters: Sequence[int], num_classes: int) -> Table:
    """One line per model."""
    table = Table(title=f"{len(cards)} models; parameters with {num_classes} classes", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("paper")
    table.add_column("year", justify="right")
    table.add_column("tasks")
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("encoder", no_wrap=True)
    for card, count in zip(cards, parameters, strict=True):
        table.add_row(
            card.name,
            card.paper.title,
            str(card.paper.year),
            ", ".join(card.tasks),
            millions(count),
            card.encoder or "own",
        )
    return table


def weights_table(entries: Sequence[PublishedWeights], fetched: Container[str]) -> Table:
    """One line per file of published weights; `fetched` are the names of those on this machine."""
    table = Table(title=f"{len(entries)} published weights", title_justify="left")
    table.add_column("name", no_wrap=True)
    for heading in ("task", "score", "licence", "commercial use", "here"):
        table.add_column(heading)
    for entry in entries:
        first = next(iter(entry.scores.items()), None)
        table.add_row(
            entry.name,
            entry.task,
            f"{score_name(first[0])} {first[1]:.3f}" if first else "",
            entry.licence.removeprefix("LicenseRef-"),
            "yes" if entry.commercial else "no",
            "yes" if entry.name in fetched else "",
        )
    return table


def recipes_table(recipes: Sequence[PaperRecipe]) -> Table:
    """One line per recipe of a paper."""
    table = Table(title=f"{len(recipes)} recipes of papers; ? marks uncertain settings", title_justify="left")
    for heading in ("name", "model"):
        table.add_column(heading, no_wrap=True)
    table.add_column("training")
    table.add_column("source")
    for recipe in recipes:
        table.add_row(recipe.name, recipe.settings["model"], _told(recipe), recipe.source)
    return table


def _told(recipe: PaperRecipe) -> str:
    """Optimiser, rate, schedule, length, batch and crop."""
    given = recipe.settings
    texts = {name: f"{value}" for name, value in given.items()} | {
        "crop": "x".join(map(str, given.get("crop", ()))) or "default"
    }
    told = {name: text + "?" * (name in recipe.uncertain) for name, text in texts.items()}
    length = next((f"{told[unit]} {unit}" for unit in ("epochs", "steps") if unit in told), "no length given")
    return (
        f"{told['optimizer']}, lr {told['lr']} {told['schedule']}, {length}, batch {told['batch_size']}, "
        f"crop {told['crop']}"
    )


def print_info(info: ModelInfo, console: Console) -> None:
    """Stages, totals and paper."""
    card, (height, width) = info.card, info.size
    table = Table()
    table.add_column("stage")
    table.add_column("channels x height x width", justify="right")
    table.add_column("parameters", justify="right")
    for stage in info.stages:
        table.add_row(
            stage.name,
            " x ".join(map(str, stage.shape)) if stage.shape else "",
            f"{stage.parameters:,}" if stage.parameters is not None else "",
        )
    console.print(Text.assemble((card.name, "bold"), f": {card.summary}"))
    console.print(table)
    field = "not measured: the output is no map of scores"
    if info.receptive_field is not None:
        pairs = zip(info.receptive_field, info.size, strict=True)
        field = " x ".join(f"{seen}" if seen < side else f"all of {side}" for seen, side in pairs) + " pixels"
    totals = Table.grid(padding=(0, 2))
    for name, text in (
        ("parameters", millions(info.parameters)),
        (
            "operations",
            f"{info.flops / 1e9:.2f} GFLOP on {height} x {width}; a multiply-add is 2",
        ),
        ("receptive field", field),
        ("smallest image", f"{info.minimum_size} x {info.minimum_size} pixels"),
        ("default encoder", card.encoder or "its own"),
        ("paper", f"{card.paper.authors}: {card.paper.title}. {card.paper.venue} {card.paper.year}"),
        ("", card.paper.url),
    ):
        totals.add_row(name, text)
    console.print(totals)


def millions(count: int) -> str:
    """1234567 -> '1.23 M'."""
    return f"{count / 1e6:.2f} M"


def _number(x: float) -> str:
    """A fraction with three decimals, a count in groups of three digits."""
    if math.isnan(x):
        return "-"
    return f"{int(x):,}" if isinstance(x, int) or (x == int(x) and abs(x) > 1) else f"{x:.3f}"
