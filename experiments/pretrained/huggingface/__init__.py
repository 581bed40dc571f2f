"""Language models in the files of Hugging Face, as plain functions with a scan over layers."""

from experiments.pretrained.huggingface._architecture import FAMILIES as FAMILIES
from experiments.pretrained.huggingface._architecture import Architecture as Architecture
from experiments.pretrained.huggingface._architecture import parse as parse
from experiments.pretrained.huggingface._load import load as load
