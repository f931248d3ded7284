"""One HTML file that shows how a training or an evaluation went. It needs nothing from elsewhere."""

from .evaluation import write_evaluation_report as write_evaluation_report
from .examples import Example as Example, best_and_worst as best_and_worst, example_of as example_of
from .page import write_report as write_report
