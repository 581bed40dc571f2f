"""What a report says of the results of a sweep: tables, paired differences, verdicts, plots."""

from experiments.comparisons._plots import draw as draw
from experiments.comparisons._tables import Table as Table
from experiments.comparisons._tables import pivot as pivot
from experiments.comparisons._verdicts import Verdict as Verdict
from experiments.comparisons._verdicts import judge as judge
