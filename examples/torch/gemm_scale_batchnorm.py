# SPDX-License-Identifier: BSD-3-Clause
"""KernelBench level 2, problems 33 and 39: Linear, scale, BatchNorm1d."""

import torch
from torch import nn

from fusedbn import SCALE_NONE, Layer, fused_layer, scale_kind


class ModelNew(nn.Module):
    """The problems' constructor, parameters and state_dict; one fused operation forward and backward."""

    def __init__(self, in_features, out_features, scale_shape, eps=1e-5, momentum=0.1):
        super().__init__()
        self.gemm = nn.Linear(in_features, out_features)
        self.scale = nn.Parameter(torch.randn(scale_shape))
        self.bn = nn.BatchNorm1d(out_features, eps=eps, momentum=momentum)
        self.layer = Layer(in_features, out_features, self.bn, activation="none",
                           pre_scale=scale_kind(self.scale, out_features), post_scale=SCALE_NONE)

    def forward(self, x):
        return fused_layer(x, self.gemm, self.scale, self.bn, self.layer)
