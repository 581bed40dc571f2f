"""Language modelling: predict the next token of a text; perplexity."""

from experiments.inputs import Task

from ._data import Text as Text
from ._data import make_batch_at as make_batch_at
from ._data import make_text as make_text
from ._data import read as read
from ._data import windows as windows
from ._inputs import make_inputs as make_inputs
from ._metrics import make_eval_fn as make_eval_fn
from ._metrics import make_loss_fn as make_loss_fn
from ._model import MODELS as MODELS
from ._model import create as create

TASK = Task(
    read=read,
    make_inputs=make_inputs,
    depends_on=("data", "data_dir", "text_fields", "vocabulary"),
)
