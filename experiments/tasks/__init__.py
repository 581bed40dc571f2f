"""Kinds of problems: data, models and metrics of each, behind one small interface.

Nothing here imports JAX; `load` does, with the task that it is asked for.
"""

from ._fields import check_segmentation as check_segmentation
from ._fields import check_text as check_text
from ._fields import is_text_file as is_text_file
from ._kinds import DEFAULT as DEFAULT
from ._kinds import KINDS as KINDS
from ._kinds import Kind as Kind
from ._kinds import Measure as Measure
from ._kinds import load as load
from ._kinds import models_of as models_of
