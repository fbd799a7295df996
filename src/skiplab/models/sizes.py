"""Residual networks of published sizes, by name.

v1: He et al. 2016, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
"""

from typing import Unpack

from skiplab.models.resnet import Options, ResNet, resnet


def resnet18(**options: Unpack[Options]) -> ResNet:
    """ResNet-18, ImageNet form: v1 Table 1. Input (N, 3, 224, 224)."""
    return resnet(18, "imagenet", **options)


def resnet34(**options: Unpack[Options]) -> ResNet:
    """ResNet-34, ImageNet form: v1 Table 1. Input (N, 3, 224, 224)."""
    return resnet(34, "imagenet", **options)


def resnet50(**options: Unpack[Options]) -> ResNet:
    """ResNet-50, ImageNet form with bottlenecks: v1 Table 1. Input (N, 3, 224, 224)."""
    return resnet(50, "imagenet", **options)


def resnet101(**options: Unpack[Options]) -> ResNet:
    """ResNet-101, ImageNet form with bottlenecks: v1 Table 1. Input (N, 3, 224, 224)."""
    return resnet(101, "imagenet", **options)


def resnet152(**options: Unpack[Options]) -> ResNet:
    """ResNet-152, ImageNet form with bottlenecks: v1 Table 1. Input (N, 3, 224, 224)."""
    return resnet(152, "imagenet", **options)


def resnet20(**options: Unpack[Options]) -> ResNet:
    """ResNet-20, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(20, **options)


def resnet32(**options: Unpack[Options]) -> ResNet:
    """ResNet-32, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(32, **options)


def resnet44(**options: Unpack[Options]) -> ResNet:
    """ResNet-44, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(44, **options)


def resnet56(**options: Unpack[Options]) -> ResNet:
    """ResNet-56, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(56, **options)


def resnet110(**options: Unpack[Options]) -> ResNet:
    """ResNet-110, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(110, **options)


def resnet1202(**options: Unpack[Options]) -> ResNet:
    """ResNet-1202, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(1202, **options)
