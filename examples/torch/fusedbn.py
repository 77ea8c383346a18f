# SPDX-License-Identifier: BSD-3-Clause
"""libfusedbn for PyTorch, through ctypes: no compiler and no PyTorch headers are needed.

fused_layer() is a linear layer with its scale and BatchNorm1d as one differentiable operation, on CPU
and CUDA tensors, on PyTorch's current stream, moving the BatchNorm1d's running statistics as PyTorch
does. The library is found as $FUSEDBN_LIBRARY, else in the linker's path.
"""

import ctypes
import ctypes.util
import os

import torch

INT, I64, U64, SIZE = ctypes.c_int, ctypes.c_int64, ctypes.c_uint64, ctypes.c_size_t
POINTER, DOUBLE = ctypes.c_void_p, ctypes.c_double

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
SCALE_NONE, SCALE_SCALAR, SCALE_FEATURE = 0, 1, 2
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "silu": 3, "softmax": 4, "log_softmax": 5}
BACKENDS = {"cpu": 1, "cuda": 2}
MATH_FP32, MATH_TF32 = 0, 1
CUMULATIVE_AVERAGE = 1


def _struct(name, *fields):
    """A mirror of one of fusedbn.h's structs: struct_size, then the fields in order."""
    return type(name, (ctypes.Structure,), {"_fields_": [("struct_size", SIZE), *fields]})


def _pointers(*names):
    return [(name, POINTER) for name in names]


ContextOptions = _struct(
    "fbn_context_options", ("backend", INT), ("device", INT), ("threads", INT),
    *_pointers("stream", "host_allocator", "device_allocator"))
LayerDesc = _struct(
    "fbn_layer_desc", ("in_features", I64), ("out_features", I64), ("max_batch", I64),
    ("dtype", INT), ("math", INT), ("pre_scale", INT), ("post_scale", INT), ("activation", INT),
    ("eps", DOUBLE), ("momentum", DOUBLE), ("flags", U64), ("kernel", ctypes.c_char_p),
    *_pointers("workspace"), ("workspace_size", SIZE))
Params = _struct(
    "fbn_params", *_pointers("weight"), ("ldw", I64),
    *_pointers("bias", "pre_scale", "post_scale", "gamma", "beta", "running_mean", "running_var",
               "num_batches_tracked"))
ForwardArgs = _struct(
    "fbn_forward_args", ("batch", I64), *_pointers("x"), ("ldx", I64), *_pointers("y"), ("ldy", I64),
    *_pointers("saved"), ("saved_size", SIZE), *_pointers("batch_mean", "batch_var"))
BackwardArgs = _struct(
    "fbn_backward_args", ("batch", I64), *_pointers("x"), ("ldx", I64), *_pointers("dy"),
    ("lddy", I64), *_pointers("saved"), ("saved_size", SIZE), ("flags", U64))
Grads = _struct(
    "fbn_grads", *_pointers("dx"), ("lddx", I64), *_pointers("weight"), ("lddw", I64),
    *_pointers("bias", "pre_scale", "post_scale", "gamma", "beta"))


class Error(RuntimeError):
    """A call of the library failed; the text says why."""


class _Library:
    def __init__(self):
        path = os.environ.get("FUSEDBN_LIBRARY") or ctypes.util.find_library("fusedbn")
        if not path:
            raise Error("libfusedbn is not installed; FUSEDBN_LIBRARY may name it")
        self.c = ctypes.CDLL(path)
        for name in ("fbn_last_error", "fbn_status_string", "fbn_context_describe",
                     "fbn_layer_describe"):
            getattr(self.c, name).restype = ctypes.c_char_p

    def call(self, name, *arguments):
        status = getattr(self.c, name)(*arguments)
        if status != 0:
            text = self.c.fbn_status_string(status).decode()
            raise Error(f"{name}: {text}: {self.c.fbn_last_error().decode()}")

    def make(self, kind, **fields):
        """A struct with its defaults, then the fields; tensors stand for their memory."""
        s = kind()
        getattr(self.c, f"{kind.__name__}_init")(ctypes.byref(s), SIZE(ctypes.sizeof(s)))
        for name, value in fields.items():
            setattr(s, name, value.data_ptr() if isinstance(value, torch.Tensor) else value)
        return s


_library = None
_contexts = {}  # by device; they live as long as the process


def _lib():
    global _library
    if _library is None:
        _library = _Library()
    return _library


def _context(device):
    """The device's context, on PyTorch's current stream."""
    lib = _lib()
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    if device not in _contexts:
        handle = POINTER()
        options = lib.make(ContextOptions, backend=BACKENDS[device.type], device=device.index or 0,
                           stream=stream or None)
        lib.call("fbn_context_create", ctypes.byref(handle), ctypes.byref(options))
        _contexts[device] = [handle, stream]
    handle, current = _contexts[device]
    if current != stream:
        lib.call("fbn_context_set_stream", handle, POINTER(stream))
        _contexts[device][1] = stream
    return handle


def describe(device):
    """One line about what the library runs on for this device."""
    return _lib().c.fbn_context_describe(_context(torch.device(device))).decode()


class Layer:
    """A layer of the library, made anew when a larger batch, another type or device comes."""

    def __init__(self, in_features, out_features, norm, pre_scale, post_scale, activation):
        self.fields = dict(
            in_features=in_features, out_features=out_features, pre_scale=pre_scale,
            post_scale=post_scale, activation=ACTIVATIONS[activation], eps=norm.eps,
            momentum=0.1 if norm.momentum is None else norm.momentum,
            flags=CUMULATIVE_AVERAGE if norm.momentum is None else 0)
        self.handle, self.made_for = POINTER(), None

    def get(self, x):
        context = _context(x.device)
        tf32 = x.is_cuda and torch.backends.cuda.matmul.allow_tf32
        kind = (x.device, x.dtype, tf32)
        if self.made_for is None or self.made_for[0] != kind or self.made_for[1] < len(x):
            self.close()
            desc = _lib().make(LayerDesc, max_batch=max(len(x), 1), dtype=DTYPES[x.dtype],
                               math=MATH_TF32 if tf32 else MATH_FP32, **self.fields)
            _lib().call("fbn_layer_create", ctypes.byref(self.handle), context, ctypes.byref(desc))
            self.made_for = (kind, len(x))
        return self.handle

    def close(self):
        if self.made_for is not None:
            _lib().c.fbn_layer_destroy(self.handle)
            self.handle, self.made_for = POINTER(), None

    def __del__(self):
        self.close()


def _params(layer, weight, bias, scale, gamma, beta, norm):
    post = layer.fields["post_scale"] != SCALE_NONE
    return _lib().make(
        Params, weight=weight, bias=bias, gamma=gamma, beta=beta, running_mean=norm.running_mean,
        running_var=norm.running_var, num_batches_tracked=norm.num_batches_tracked,
        **{"post_scale" if post else "pre_scale": scale})


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, scale, gamma, beta, layer, norm):
        lib, handle = _lib(), layer.get(x)
        y = torch.empty(len(x), len(weight), dtype=x.dtype, device=x.device)
        saved, size = None, SIZE()
        if any(ctx.needs_input_grad):
            lib.call("fbn_layer_saved_size", handle, I64(len(x)), ctypes.byref(size))
            saved = torch.empty(size.value, dtype=torch.uint8, device=x.device)
        training = norm.training or norm.running_mean is None
        params = _params(layer, weight, bias, scale, gamma, beta, norm)
        args = lib.make(ForwardArgs, batch=len(x), x=x, y=y, saved=saved, saved_size=size.value)
        lib.call("fbn_forward_train" if training else "fbn_forward_infer", handle,
                 ctypes.byref(params), ctypes.byref(args))
        ctx.save_for_backward(x, weight, bias, scale, gamma, beta, saved)
        ctx.layer, ctx.norm, ctx.handle = layer, norm, handle.value
        return y

    @staticmethod
    def backward(ctx, dy):
        lib, layer = _lib(), ctx.layer
        x, weight, bias, scale, gamma, beta, saved = ctx.saved_tensors
        if layer.get(x).value != ctx.handle:
            raise Error("the layer was made anew between forward and backward")
        dy = dy.contiguous()
        grads = [None if value is None or not needed else torch.empty_like(value)
                 for value, needed in zip((x, weight, bias, scale, gamma, beta), ctx.needs_input_grad)]
        dx, dw, db, ds, dgamma, dbeta = grads
        post = layer.fields["post_scale"] != SCALE_NONE
        params = _params(layer, weight, bias, scale, gamma, beta, ctx.norm)
        args = lib.make(BackwardArgs, batch=len(x), x=x, dy=dy, saved=saved, saved_size=len(saved))
        to = lib.make(Grads, dx=dx, weight=dw, bias=db, gamma=dgamma, beta=dbeta,
                      **{"post_scale" if post else "pre_scale": ds})
        lib.call("fbn_backward", ctx.layer.handle, ctypes.byref(params), ctypes.byref(args),
                 ctypes.byref(to))
        return (*grads, None, None)


def scale_kind(scale, out_features):
    """fbn_scale of a scale tensor: one entry, or one for each feature."""
    if scale.numel() == out_features and out_features != 1:
        return SCALE_FEATURE
    if scale.numel() == 1:
        return SCALE_SCALAR
    raise ValueError(f"scale has {scale.numel()} entries, but the layer has {out_features} features")


def fused_layer(x, gemm, scale, norm, layer):
    """y of `layer` (a Layer) on x [N,I], with the parameters of an nn.Linear, a scale and an
    nn.BatchNorm1d; differentiable in all of them."""
    if x.dim() != 2 or x.dtype != gemm.weight.dtype:
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}: needs {gemm.weight.dtype} [N, "
                         f"{gemm.in_features}]")
    return _Fused.apply(x.contiguous(), gemm.weight, gemm.bias, scale, norm.weight, norm.bias, layer,
                        norm)
