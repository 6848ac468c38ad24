"""Layers that torch lacks: conditional batch norm, translated ReLU, self-attention, residual blocks."""

from poise.layers.activation import TranslatedReLU
from poise.layers.attention import SelfAttention
from poise.layers.batch_norm import BatchNorm, ClassBatchNorm, ConditionBatchNorm
from poise.layers.residual import DiscriminatorBlock, GeneratorBlock
from poise.layers.weight_normalized import WeightedSum, affine, strict

__all__ = [
    "BatchNorm",
    "ClassBatchNorm",
    "ConditionBatchNorm",
    "DiscriminatorBlock",
    "GeneratorBlock",
    "SelfAttention",
    "TranslatedReLU",
    "WeightedSum",
    "affine",
    "strict",
]
