# SPDX-License-Identifier: BSD-3-Clause
"""KernelBench level 2, problem 84: Linear, BatchNorm1d, scale, softmax over the features."""

import torch
from torch import nn

from fusedbn import SCALE_NONE, Layer, fused_layer, scale_kind


class ModelNew(nn.Module):
    """The problem's constructor, parameters and state_dict; one fused operation forward and backward."""

    def __init__(self, in_features, out_features, bn_eps=1e-5, bn_momentum=0.1, scale_shape=(1,)):
        super().__init__()
        self.gemm = nn.Linear(in_features, out_features)
        self.bn = nn.BatchNorm1d(out_features, eps=bn_eps, momentum=bn_momentum)
        self.scale = nn.Parameter(torch.ones(scale_shape))
        self.layer = Layer(in_features, out_features, self.bn, activation="softmax",
                           pre_scale=SCALE_NONE, post_scale=scale_kind(self.scale, out_features))

    def forward(self, x):
        return fused_layer(x, self.gemm, self.scale, self.bn, self.layer)
