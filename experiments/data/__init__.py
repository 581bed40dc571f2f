"""Image-classification data, in memory or streamed; batches are pure functions of (seed, step)."""

from ._augment import CropFlip as CropFlip
from ._augment import crop_flip as crop_flip
from ._batches import make_batch_at as make_batch_at
from ._batches import steps_per_epoch as steps_per_epoch
from ._dataset import Dataset as Dataset
from ._dataset import Split as Split
from ._evaluation import EvaluationStream as EvaluationStream
from ._evaluation import make_evaluation_stream as make_evaluation_stream
from ._held_out import SplitName as SplitName
from ._identity import Identity as Identity
from ._identity import identity as identity
from ._identity import identity_of_files as identity_of_files
from ._imagenet import IMAGENET_MEAN as IMAGENET_MEAN
from ._imagenet import IMAGENET_STD as IMAGENET_STD
from ._imagenet import RandomResizedCrop as RandomResizedCrop
from ._imagenet import ResizeCentreCrop as ResizeCentreCrop
from ._load import PREPROCESSING as PREPROCESSING
from ._load import load as load
from ._load import statistics as statistics
from ._normalise import normalise as normalise
from ._permutation import permuted as permuted
from ._preprocess import PadCropFlip as PadCropFlip
from ._preprocess import Preprocess as Preprocess
from ._stream import Stream as Stream
from ._stream import make_stream as make_stream
from ._workers import Batches as Batches
