"""Image-classification data in memory, and batches that are pure functions of (seed, step)."""

from ._augment import CropFlip as CropFlip
from ._augment import crop_flip as crop_flip
from ._batches import make_batch_at as make_batch_at
from ._batches import steps_per_epoch as steps_per_epoch
from ._dataset import Dataset as Dataset
from ._dataset import Split as Split
from ._load import KNOWN as KNOWN
from ._load import load as load
from ._normalise import normalise as normalise
from ._permutation import permuted as permuted
