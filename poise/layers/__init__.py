"""Layers that torch lacks: batch norm by class or over processes, translated ReLU, self-attention, residual blocks."""

from poise.layers.activation import TranslatedReLU
from poise.layers.attention import SelfAttention
from poise.layers.batch_norm import BatchNorm, ClassBatchNorm, ConditionBatchNorm
from poise.layers.cross_replica import CrossReplicaBatchNorm, cross_replica
from poise.layers.residual import DiscriminatorBlock, GeneratorBlock
from poise.layers.transposed import ConvTranspose2d
from poise.layers.weight_normalized import WeightedSum, affine, strict

__all__ = [
    "BatchNorm",
    "ClassBatchNorm",
    "ConditionBatchNorm",
    "ConvTranspose2d",
    "CrossReplicaBatchNorm",
    "DiscriminatorBlock",
    "GeneratorBlock",
    "SelfAttention",
    "TranslatedReLU",
    "WeightedSum",
    "affine",
    "cross_replica",
    "strict",
]
