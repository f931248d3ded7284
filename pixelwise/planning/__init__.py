"""Planning: what a data set and a machine are like, and what follows from it for a training.

    facts of the data + facts of the machine + budget + what the user gives -> rules -> Plan

Facts are measured (`measure_data`, `machine_facts`); rules are plain functions (`rules.py`; each task says
which ones it takes, and its ladder of networks); `settle` puts them together and touches neither clock nor
file.
"""

from .budget import read_budget as read_budget, told_seconds as told_seconds
from .data_facts import ClassFacts as ClassFacts, DataFacts as DataFacts
from .machine_facts import (
    MachineFacts as MachineFacts,
    Probe as Probe,
    RangeTest as RangeTest,
    machine_facts as machine_facts,
)
from .measure import measure_data as measure_data
from .plan import (
    Plan as Plan,
    Row as Row,
    all_settings as all_settings,
    read_plan as read_plan,
    settle as settle,
    shape as shape,
)
from .rule import (
    Choice as Choice,
    Planning as Planning,
    Rule as Rule,
    Rung as Rung,
    Situation as Situation,
)
