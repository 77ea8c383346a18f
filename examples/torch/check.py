#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks the fused modules against PyTorch's own, as KernelBench does and further.

    FUSEDBN_LIBRARY=.../libfusedbn.so python3 check.py [--device cpu|cuda] [--size N,I,O] ...

Each problem, in training and then in evaluation: the output within KernelBench's 1e-4 (absolute plus
relative) of the eager module; running statistics likewise, num_batches_tracked equal. Outputs,
statistics and every gradient are also held against the eager module in float64: the fused error may be
twice the eager one, or 1e-6 of the result where the eager one is luckier. Problem 84's outputs are so
small that zeros pass a loose absolute check: its relative error and the sums of its rows count too.
"""

import argparse
import copy
import sys

import torch
from torch import nn

import fusedbn
import gemm_batchnorm_scale_softmax
import gemm_scale_batchnorm

KERNELBENCH = 1e-4


class GemmScaleBatchNorm(nn.Module):
    """What problems 33 and 39 ask for, as a sequence of PyTorch's own operations."""

    def __init__(self, fused):
        super().__init__()
        self.gemm, self.scale, self.bn = (copy.deepcopy(p) for p in
                                          (fused.gemm, fused.scale, fused.bn))

    def forward(self, x):
        return self.bn(self.gemm(x) * self.scale)


class GemmBatchNormScaleSoftmax(GemmScaleBatchNorm):
    """Problem 84, likewise."""

    def forward(self, x):
        return torch.softmax(self.scale * self.bn(self.gemm(x)), dim=1)


def problems(inputs, outputs):
    """Name, eager module, fused module: parameters that leave no formula untested."""
    for name, eager, fused in (
            ("33", GemmScaleBatchNorm,
             gemm_scale_batchnorm.ModelNew(inputs, outputs, (outputs,))),
            ("39", GemmScaleBatchNorm,
             gemm_scale_batchnorm.ModelNew(inputs, outputs, (outputs,), eps=0.5, momentum=None)),
            ("84", GemmBatchNormScaleSoftmax,
             gemm_batchnorm_scale_softmax.ModelNew(inputs, outputs))):
        with torch.no_grad():
            fused.bn.weight.uniform_(0.5, 1.5)
            fused.bn.bias.uniform_(-0.5, 0.5)
        yield name, eager(fused), fused


def results(module, x, dy):
    """Output, statistics and gradients of one pass, by name."""
    x = x.detach().clone().requires_grad_(True)
    module.zero_grad()
    y = module(x)
    y.backward(dy)
    found = {"y": y.detach(), "dx": x.grad}
    found.update((f"d {name}", p.grad) for name, p in module.named_parameters())
    found.update((name, buffer.clone()) for name, buffer in module.named_buffers())
    return found


def error(value, exact):
    return (value.double() - exact).norm().item()


def scale_of(value, exact):
    """The exact value in value's shape, and how large it is for the purpose of rounding: where many
    features' gradients are summed to one, as large as the sum without cancellation."""
    if value.shape == exact.shape:
        return exact, exact.norm().item()
    return exact.sum().reshape(value.shape), exact.abs().sum().item()


def compare(label, fused, eager, exact):
    """Prints what is off; returns how much is."""
    faults = []
    for name, value in fused.items():
        if name == "bn.num_batches_tracked":
            if not torch.equal(value, eager[name]):
                faults.append(f"{name}: {value.item()}, not {eager[name].item()}")
            continue
        if not name.startswith("d") and not torch.allclose(value, eager[name], KERNELBENCH,
                                                           KERNELBENCH):
            faults.append(f"{name}: not within {KERNELBENCH} of the eager module")
        right, size = scale_of(value, exact[name])
        bound = max(2 * error(eager[name], right), 1e-6 * size)
        if not error(value, right) <= bound:
            faults.append(f"{name}: off by {error(value, right):.3g}, allowed {bound:.3g}")
    relative = error(fused["y"], exact["y"]) / exact["y"].norm().item()
    print(f"{label}: y off by {relative:.2e} relative (eager: "
          f"{error(eager['y'], exact['y']) / exact['y'].norm().item():.2e}), "
          f"{len(fused)} results compared: {'FAILED' if faults else 'ok'}")
    for fault in faults:
        print(f"    {fault}")
    return len(faults)


def check_rows(label, y):
    """Softmax rows sum to 1 within the rounding of their entries."""
    worst = (y.double().sum(dim=1) - 1).abs().max().item()
    if worst <= 1e-5:
        return 0
    print(f"    {label}: a row's sum is off by {worst:.3g}")
    return 1


def main():
    parser = argparse.ArgumentParser(description="checks the fused modules against PyTorch's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", default=None, help="N,I,O; default 1024,8192,8192 on cuda, "
                                                     "128,1024,512 on cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    size = options.size or ("1024,8192,8192" if options.device == "cuda" else "128,1024,512")
    batch, inputs, outputs = (int(word) for word in size.split(","))

    print(f"PyTorch {torch.__version__}; {fusedbn.describe(options.device)}; N,I,O = {size}")
    torch.manual_seed(options.seed)
    faults = 0
    for name, eager, fused in problems(inputs, outputs):
        fused, eager = fused.to(options.device), eager.to(options.device)
        exact = copy.deepcopy(eager).double()
        exact.scale = nn.Parameter(exact.scale.detach().expand(outputs).clone())
        for training in (True, False):
            x = torch.rand(batch, inputs, device=options.device)
            dy = torch.randn(batch, outputs, device=options.device)
            for module in (fused, eager, exact):
                module.train(training)
            found = results(fused, x, dy)
            label = f"problem {name} {'training' if training else 'evaluation'}"
            faults += compare(label, found, results(eager, x, dy),
                              results(exact, x.double(), dy.double()))
            if name == "84":
                faults += check_rows(label, found["y"])
    print("all right" if not faults else f"{faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
