"""Training: a recipe in, a run directory out."""

from ..recipe import Recipe as Recipe
from .module import NonFiniteLoss as NonFiniteLoss, TrainingModule as TrainingModule
from .optim import Optimization as Optimization, freeze as freeze, parameter_groups as parameter_groups
from .report import (
    Example as Example,
    best_and_worst as best_and_worst,
    example_of as example_of,
    write_report as write_report,
)
from .run import (
    Experiment as Experiment,
    TrainResult as TrainResult,
    fit as fit,
    make_experiment as make_experiment,
    resume as resume,
    run as run,
    train as train,
)
