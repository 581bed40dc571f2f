"""Where the rows of a run's log go besides metrics.jsonl: TensorBoard, W&B, trackio."""

from ._open import NAMES as NAMES
from ._open import check_installed as check_installed
from ._open import open_writers as open_writers
from ._rows import Writer as Writer
from ._rows import scalars as scalars
