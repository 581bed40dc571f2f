"""Flax Linen models of the pruning literature, and their training and evaluation functions."""

from ._create import MODELS as MODELS
from ._create import create as create
from ._lenet import LeNet5 as LeNet5
from ._mlp import MLP as MLP
from ._objective import init as init
from ._objective import make_eval_fn as make_eval_fn
from ._objective import make_loss_fn as make_loss_fn
from ._resnet import ResNet as ResNet
from ._small_cnn import SmallCNN as SmallCNN
