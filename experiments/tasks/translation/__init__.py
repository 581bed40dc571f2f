"""Translation: an encoder-decoder transformer on pairs of sentences; BLEU."""

from experiments.inputs import Task

from ._buckets import Plan as Plan
from ._buckets import bounds_of as bounds_of
from ._buckets import pad as pad
from ._data import Pairs as Pairs
from ._data import Sentences as Sentences
from ._data import make_pairs as make_pairs
from ._data import read as read
from ._decode import make_translate as make_translate
from ._inputs import make_inputs as make_inputs
from ._metrics import make_eval_fn as make_eval_fn
from ._metrics import make_loss_fn as make_loss_fn
from ._model import MODELS as MODELS
from ._model import Transformer as Transformer

TASK = Task(
    read=read,
    make_inputs=make_inputs,
    depends_on=("data", "data_dir", "text_fields", "vocabulary"),
)
