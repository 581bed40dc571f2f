"""Flax Linen models of the pruning literature, and their training and evaluation functions."""

from ._convolution import prefer_eigen_convolutions as prefer_eigen_convolutions
from ._create import MODELS as MODELS
from ._create import create as create
from ._densenet import DenseNet as DenseNet
from ._gpt import GPT as GPT
from ._imagenet_resnet import ImageNetResNet as ImageNetResNet
from ._layers import batch_norm as batch_norm
from ._layers import he_normal as he_normal
from ._lenet import LeNet5 as LeNet5
from ._mlp import MLP as MLP
from ._mobilenet import MobileNetV2 as MobileNetV2
from ._objective import LossFn as LossFn
from ._objective import init as init
from ._objective import init_with as init_with
from ._objective import make_eval_fn as make_eval_fn
from ._objective import make_loss_fn as make_loss_fn
from ._resnet import ResNet as ResNet
from ._shrunk import Shrunk as Shrunk
from ._shrunk import shrink as shrink
from ._shrunk import training_apply as training_apply
from ._small_cnn import SmallCNN as SmallCNN
from ._transformer import blocks as blocks
from ._vgg import VGG16 as VGG16
from ._vit import ViT as ViT
from ._wide_resnet import WideResNet as WideResNet
