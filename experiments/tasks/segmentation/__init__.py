"""Semantic segmentation: a class for every pixel; mean intersection over union."""

from experiments.inputs import Task

from ._data import Masks as Masks
from ._data import Scenes as Scenes
from ._data import make_batch_at as make_batch_at
from ._data import make_scenes as make_scenes
from ._inputs import make_inputs as make_inputs
from ._metrics import make_eval_fn as make_eval_fn
from ._metrics import make_loss_fn as make_loss_fn
from ._metrics import mean_iou as mean_iou
from ._model import MODELS as MODELS
from ._model import SegmentationNet as SegmentationNet
from ._read import read as read

TASK = Task(
    read=read,
    make_inputs=make_inputs,
    depends_on=("data", "data_dir", "void_class"),
)
