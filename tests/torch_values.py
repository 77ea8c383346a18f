#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Prints torch_values.h: one small layer by PyTorch's own modules and autograd, in float64.

Run with PyTorch installed (1.13.1 made the committed file): python3 torch_values.py > torch_values.h
"""
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
DATA = {
    "x": [[0.5, -1.25], [1.5, 0.75], [-2.0, 0.25], [0.125, 3.0]],
    "w": [[1.0, -0.5], [0.25, 2.0], [-1.5, 0.75]],
    "bias": [0.1, -0.2, 0.3],
    "pre": [0.5, -1.5, 2.0],
    "post": [1.25, -0.75, 0.5],
    "gamma": [1.5, 0.5, -1.0],
    "beta": [0.2, -0.3, 0.4],
    "dy": [[1.0, -0.5, 0.25], [0.75, -1.0, 2.0], [-0.125, 0.5, 1.5], [0.625, -1.75, -0.375]],
    "running_mean": [0.05, -0.1, 0.2],
    "running_var": [0.9, 1.6, 1.1],
}
EPS, MOMENTUM = 0.5, 0.25
ACTIVATIONS = {
    "NONE": lambda v: v,
    "RELU": torch.relu,
    "GELU": F.gelu,
    "SILU": F.silu,
    "SOFTMAX": lambda v: torch.softmax(v, 1),
    "LOG_SOFTMAX": lambda v: torch.log_softmax(v, 1),
}


def numbers(values):
    return "{" + ", ".join(f"{v:.17g}" for v in values) + "}"


def layer(training, activation):
    p = {k: torch.tensor(v, requires_grad="running" not in k) for k, v in DATA.items()}
    z = F.linear(p["x"], p["w"], p["bias"]) * p["pre"]
    h = F.batch_norm(z, p["running_mean"], p["running_var"], p["gamma"], p["beta"], training,
                     MOMENTUM, EPS)
    y = activation(h * p["post"])
    y.backward(p["dy"].detach())
    results = {"Y": y, "RUNNING_MEAN": p["running_mean"], "RUNNING_VAR": p["running_var"]}
    for name, key in (("DX", "x"), ("DW", "w"), ("DBIAS", "bias"), ("DPRE", "pre"),
                      ("DPOST", "post"), ("DGAMMA", "gamma"), ("DBETA", "beta")):
        results[name] = p[key].grad
    return results


print("/* SPDX-License-Identifier: BSD-3-Clause\n *\n"
      " * One small layer by PyTorch's modules and autograd in float64; made by torch_values.py. */")
print("#ifndef TESTS_TORCH_VALUES_H\n#define TESTS_TORCH_VALUES_H\n\n#include \"oracle.h\"\n")
print("enum { TORCH_N = 4, TORCH_I = 2, TORCH_O = 3 };")
print(f"static const double torch_eps = {EPS}, torch_momentum = {MOMENTUM};")
for key, value in DATA.items():
    flat = torch.tensor(value).reshape(-1).tolist()
    print(f"static const double torch_{key}[] = {numbers(flat)};")
print("\ntypedef struct torch_layer {\n    bool training;\n    fbn_activation activation;\n"
      "    double out[OUTPUTS][TORCH_N * TORCH_O];\n} torch_layer;\n")
print("static const torch_layer torch_layers[] = {")
for training in (True, False):
    for name, activation in ACTIVATIONS.items():
        print(f"    {{.training = {str(training).lower()}, .activation = FBN_ACT_{name}, .out = {{")
        for key, value in layer(training, activation).items():
            print(f"        [OUT_{key}] = {numbers(value.detach().reshape(-1).tolist())},")
        print("    }},")
print("};\n\n#endif")
