"""Several models as one: their answers are averaged (Breiman, Machine Learning 24, 1996), or their weights.

An `Ensemble` is a model like any other: it takes an image and gives the output type of its members, so that
prediction, evaluation, checkpoints and export need not know it. What the average of several outputs is
depends on their type: probabilities of pixels and heatmaps have one; sets of boxes and masks have none.

Weights may be averaged where models of one architecture left from the same starting point (Wortsman et al.,
"Model soups", ICML 2022): one model comes out, of the cost of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .decode import mean_scores
from .reduced import build_network
from .types import BuiltBy, DenseLogits, Heatmaps, Model

NAME = "ensemble"
_MOST = 64


class Ensemble(Model):
    """The average of several models.

    Args:
        members: models of one output type, for the same classes and channels.
        exclusive: whether a pixel has exactly one class, so that a softmax makes probabilities of scores;
            else a sigmoid of each.

    Raises:
        ValueError: if the members differ in output, classes, channels or tasks, or have no average.

    >>> from pixelwise import build
    >>> one, other = build("pspnet", 2, encoder="tiny"), build("unet", 2, encoder="tiny")
    >>> Ensemble([one, other]).eval()(torch.rand(1, 3, 32, 40)).logits.shape
    torch.Size([1, 2, 32, 40])
    """

    def __init__(self, members: Sequence[Model], *, exclusive: bool = True) -> None:
        super().__init__()
        every = [one for member in members for one in _members_of(member)]
        if not 1 < len(every) <= _MOST:
            raise ValueError(f"an ensemble has 2 to {_MOST} models, got {len(every)}")
        first = every[0]
        for name in ("output", "num_classes", "in_channels"):
            told = {str(getattr(member, name)) for member in every}
            if len(told) > 1:
                raise ValueError(f"the models of an ensemble differ in {name}: {', '.join(sorted(told))}")
        if averaged.dispatch(first.output) is averaged.dispatch(object):
            raise _no_average(first.output)
        tasks = tuple(task for task in first.tasks if all(task in member.tasks for member in every))
        if not tasks:
            raise ValueError("the models of an ensemble serve no task in common")
        self.__dict__.update(tasks=tasks, output=first.output)  # of classes elsewhere, of this object here
        self.num_classes, self.in_channels, self.exclusive = first.num_classes, first.in_channels, exclusive
        self.minimum_size = max(member.minimum_size for member in every)
        self.encoder_parts = ()
        self.members = nn.ModuleList(every)
        if all(member.built_by is not None for member in every):
            told_members = [
                {"builder": member.built_by.builder, "arguments": member.built_by.arguments}
                for member in every
                if member.built_by is not None
            ]
            self.built_by = BuiltBy(NAME, {"members": told_members, "exclusive": exclusive})

    def forward(self, image: Float[Tensor, "b c *grid"]) -> Any:
        """The average of what the members say, of the type of their output."""
        first, *others = self.members
        said = first(image)
        return averaged(said, (member(image) for member in others), self.exclusive)


def _members_of(model: Model) -> list[Model]:
    """An ensemble's models count one by one; any other model is one."""
    return (
        [one for one in model.members if isinstance(one, Model)] if isinstance(model, Ensemble) else [model]
    )


def _no_average(kind: type) -> ValueError:
    return ValueError(
        f"{kind.__name__} of several models cannot be averaged: take one of the models, or average weights"
    )


@singledispatch
def averaged(first: object, others: Iterable[Any], exclusive: bool) -> Any:
    """The mean of several outputs of one type.

    Args:
        first: one output.
        others: the others, one at a time.
        exclusive: whether classes exclude each other.

    Raises:
        ValueError: if such outputs have no mean.
    """
    raise _no_average(type(first))


@averaged.register
def _(first: DenseLogits, others: Iterable[DenseLogits], exclusive: bool) -> DenseLogits:
    """Scores whose probabilities are the means, at the size of the image."""
    scores = mean_scores([first.logits, *(other.logits for other in others)], exclusive)
    return DenseLogits(scores, first.size)


@averaged.register
def _(first: Heatmaps, others: Iterable[Heatmaps], exclusive: bool) -> Heatmaps:
    """The mean of the maps; they must have one resolution."""
    maps = [first.coarse, *(other.coarse for other in others)]
    if len({tuple(one.shape) for one in maps}) > 1:
        raise ValueError("heatmaps of different resolution cannot be averaged")
    return Heatmaps(torch.stack(maps).mean(0), first.size)


def build_ensemble(members: Sequence[Mapping[str, Any]], exclusive: bool = True) -> Ensemble:
    """An ensemble by the builders and arguments of its members; nothing is fetched.

    Args:
        members: "builder" and "arguments" of each.
        exclusive: see `Ensemble`.

    Raises:
        ValueError: if one of them cannot be built.
    """
    if not isinstance(members, list | tuple) or not 1 < len(members) <= _MOST:
        raise ValueError(f"an ensemble has a list of 2 to {_MOST} members")
    models = []
    for member in members:
        models.append(build_network(str(member["builder"]), member["arguments"]))
    return Ensemble(models, exclusive=bool(exclusive))


def averaged_weights(models: Sequence[Model]) -> Model:
    """One model with the mean of the weights of several; counts are those of the first.

    Batch norm's means and variances are averaged too, which is near what they would be if measured anew.

    Args:
        models: of one builder with the same arguments; left as they are.

    Raises:
        ValueError: if they differ in how they were built, or nobody knows.
    """
    first = models[0].built_by
    if first is None or first.builder == NAME:
        raise ValueError("weights are averaged of single models that know how they were built")
    plain = [_but_pretrained(model.built_by) for model in models]
    if any(one != plain[0] for one in plain):
        raise ValueError(
            "weights can be averaged of models that were built alike only: average the outputs of these"
        )
    states = [model.state_dict() for model in models]
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }
    model = build_network(first.builder, first.arguments)
    model.load_state_dict(mean)
    return model.eval()


def _but_pretrained(built_by: BuiltBy | None) -> Any:
    if built_by is None:
        return None
    known = {name: given for name, given in built_by.arguments.items() if name != "pretrained"}
    return built_by.builder, known
