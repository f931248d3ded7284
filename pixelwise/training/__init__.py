"""Training: a recipe in, a run directory out."""

from ..recipe import Recipe as Recipe
from .augmented import augmented_data as augmented_data, preview as preview
from .automatic import (
    Planned as Planned,
    is_planned as is_planned,
    make_plan as make_plan,
    train_by_plan as train_by_plan,
)
from .module import NonFiniteLoss as NonFiniteLoss, TrainingModule as TrainingModule
from .optim import Optimization as Optimization, freeze as freeze, parameter_groups as parameter_groups
from .run import (
    Experiment as Experiment,
    TrainResult as TrainResult,
    fit as fit,
    make_experiment as make_experiment,
    open_data_of as open_data_of,
    recipe_of as recipe_of,
    resume as resume,
    run as run,
    train as train,
)
from .run_report import command_of as command_of
