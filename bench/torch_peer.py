#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs PyTorch's modules beside the library, in one process and in turns, and prints the ratio.

    torch_peer.py [--library build/.libs/libfusedbn.so] [--case NAME] [--dtype f32,bf16] ...

The library is called through ctypes on the memory of PyTorch's tensors. First both results are
compared with PyTorch's in double; then both are timed. PyTorch and the library may bring different
OpenMP runtimes, whose idle threads spin for some milliseconds after each call; so a pause and an
untimed call come before each sample, or the one's threads would take the other's processors.

--backend cuda runs both on a GPU (torch_peer_cuda.py): eager and compiled, each as calls on a
stream and as replays of a CUDA graph.
"""

import argparse
import ctypes
import ctypes.util
import os
import statistics
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("torch_peer: PyTorch is not installed for this Python (pip install torch)")

EPS, MOMENTUM = 1e-5, 0.1
PAUSE = 0.01  # seconds in which another runtime's threads go to sleep
SAMPLE = 1e-3  # seconds that a sample lasts at least

CASES = [  # name, N, I, O, operation, softmax
    ("train-2048x1024x1024", 2048, 1024, 1024, "train", False),
    ("infer-2048x1024x1024", 2048, 1024, 1024, "infer", False),
    ("train-4096x64x1024", 4096, 64, 1024, "train", False),
    ("softmax-4096x64x1024", 4096, 64, 1024, "train", True),
    ("train-65536x64x256", 65536, 64, 256, "train", False),
    ("train-8x64x64", 8, 64, 64, "train", False),
    ("prepared-1x1024x1024", 1, 1024, 1024, "prepared", False),
    ("backward-2048x1024x1024", 2048, 1024, 1024, "backward", False),
    ("train-32x256x256", 32, 256, 256, "train", False),
    ("train-128x1024x512", 128, 1024, 512, "train", False),
    ("train-16x4096x4096", 16, 4096, 4096, "train", False),
]
DTYPES = {  # number in fbn_dtype, PyTorch's type
    "f32": (0, torch.float32),
    "f64": (1, torch.float64),
    "bf16": (2, torch.bfloat16),
    "f16": (3, torch.float16),
}

# ------------------------------------------------------------------------------------ the library


def struct(name, *fields):
    """A mirror of one of fusedbn.h's structs: struct_size, then the fields in order."""
    return type(name, (ctypes.Structure,), {"_fields_": [("struct_size", ctypes.c_size_t), *fields]})


def pointers(*names):
    return [(name, ctypes.c_void_p) for name in names]


INT, I64, U64, SIZE = ctypes.c_int, ctypes.c_int64, ctypes.c_uint64, ctypes.c_size_t
ContextOptions = struct(
    "fbn_context_options", ("backend", INT), ("device", INT), ("threads", INT),
    *pointers("stream", "host_allocator", "device_allocator"))
LayerDesc = struct(
    "fbn_layer_desc", ("in_features", I64), ("out_features", I64), ("max_batch", I64),
    ("dtype", INT), ("math", INT), ("pre_scale", INT), ("post_scale", INT), ("activation", INT),
    ("eps", ctypes.c_double), ("momentum", ctypes.c_double), ("flags", U64),
    ("kernel", ctypes.c_char_p), *pointers("workspace"), ("workspace_size", SIZE))
Params = struct(
    "fbn_params", *pointers("weight"), ("ldw", I64),
    *pointers("bias", "pre_scale", "post_scale", "gamma", "beta", "running_mean", "running_var",
              "num_batches_tracked"))
ForwardArgs = struct(
    "fbn_forward_args", ("batch", I64), *pointers("x"), ("ldx", I64), *pointers("y"), ("ldy", I64),
    *pointers("saved"), ("saved_size", SIZE), *pointers("batch_mean", "batch_var"))
BackwardArgs = struct(
    "fbn_backward_args", ("batch", I64), *pointers("x"), ("ldx", I64), *pointers("dy"),
    ("lddy", I64), *pointers("saved"), ("saved_size", SIZE), ("flags", U64))
Grads = struct(
    "fbn_grads", *pointers("dx"), ("lddx", I64), *pointers("weight"), ("lddw", I64),
    *pointers("bias", "pre_scale", "post_scale", "gamma", "beta"))
RunArgs = struct(
    "fbn_run_args", ("batch", I64), *pointers("x"), ("ldx", I64), *pointers("y"), ("ldy", I64),
    *pointers("workspace"), ("workspace_size", SIZE))

SCALE_SCALAR, SCALE_FEATURE, ACT_SOFTMAX, BACKEND_CPU, BACKEND_CUDA = 1, 2, 4, 1, 2


class Library:
    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        for name in ("fbn_last_error", "fbn_version", "fbn_context_describe", "fbn_status_string"):
            getattr(self.c, name).restype = ctypes.c_char_p

    def call(self, name, *arguments):
        status = getattr(self.c, name)(*arguments)
        if status != 0:
            text = self.c.fbn_status_string(status).decode()
            sys.exit(f"torch_peer: {name}: {text}: {self.c.fbn_last_error().decode()}")

    def make(self, kind, **fields):
        """A struct with its defaults, then the fields; tensors stand for their memory."""
        s = kind()
        init = getattr(self.c, f"{kind.__name__}_init")
        init(ctypes.byref(s), ctypes.c_size_t(ctypes.sizeof(s)))
        for name, value in fields.items():
            setattr(s, name, value.data_ptr() if isinstance(value, torch.Tensor) else value)
        return s


def aligned_bytes(count, device):
    """Memory aligned to 256 bytes, or None for none."""
    if count == 0:
        return None
    memory = torch.empty(count + 256, dtype=torch.uint8, device=device)
    return memory[-memory.data_ptr() % 256:][:count]


class FusedLayer:
    """The library's layer on a module's parameters, with results of its own."""

    def __init__(self, library, context, module, x, dy, operation, dtype, math=0):
        self.lib, self.operation, self.x, self.dy = library, operation, x, dy
        linear, norm, softmax = module.linear, module.norm, module.softmax
        size = ctypes.c_size_t()
        # The caller's memory is not the module's: the running statistics and the results.
        self.mean, self.var = norm.running_mean.clone(), norm.running_var.clone()
        self.y = torch.empty(len(x), linear.out_features, dtype=x.dtype, device=x.device)
        self.scale = module.scale
        desc = library.make(
            LayerDesc, in_features=linear.in_features, out_features=linear.out_features,
            max_batch=len(x), dtype=dtype, math=math, activation=ACT_SOFTMAX if softmax else 0,
            **{"post_scale" if softmax else "pre_scale": SCALE_SCALAR if softmax else SCALE_FEATURE})
        self.layer = ctypes.c_void_p()
        library.call("fbn_layer_create", ctypes.byref(self.layer), context, ctypes.byref(desc))
        self.params = library.make(
            Params, weight=linear.weight, bias=linear.bias, gamma=norm.weight, beta=norm.bias,
            running_mean=self.mean, running_var=self.var,
            **{"post_scale" if softmax else "pre_scale": self.scale})
        self.forward = library.make(ForwardArgs, batch=len(x), x=x, y=self.y)
        if operation == "backward":
            library.call("fbn_layer_saved_size", self.layer, I64(len(x)), ctypes.byref(size))
            self.saved = aligned_bytes(size.value, x.device)
            self.forward.saved, self.forward.saved_size = self.saved.data_ptr(), size.value
            self.backward = library.make(
                BackwardArgs, batch=len(x), x=x, dy=dy, saved=self.saved, saved_size=size.value)
            self.gradients = {"dx": torch.empty_like(x), "weight": torch.empty_like(linear.weight),
                              "scale": torch.empty_like(self.scale),
                              "gamma": torch.empty_like(norm.weight),
                              "beta": torch.empty_like(norm.bias)}
            g = self.gradients
            self.grads = library.make(
                Grads, dx=g["dx"], weight=g["weight"], gamma=g["gamma"], beta=g["beta"],
                **{"post_scale" if softmax else "pre_scale": g["scale"]})
        if operation == "prepared":
            self.prepared = ctypes.c_void_p()
            library.call("fbn_prepare_infer", ctypes.byref(self.prepared), self.layer,
                         ctypes.byref(self.params))
            library.call("fbn_prepared_workspace_size", self.prepared, I64(len(x)),
                         ctypes.byref(size))
            self.workspace = aligned_bytes(size.value, x.device)
            self.run = library.make(RunArgs, batch=len(x), x=x, y=self.y)
            if self.workspace is not None:
                self.run.workspace = self.workspace.data_ptr()
                self.run.workspace_size = size.value
        self.calls = self._bind()

    def _bind(self):
        """The functions and arguments of one run, made once: ctypes itself costs enough."""
        c, by = self.lib.c, ctypes.byref
        if self.operation == "prepared":
            return [(c.fbn_prepared_run, (self.prepared, by(self.run)))]
        forward = c.fbn_forward_infer if self.operation == "infer" else c.fbn_forward_train
        calls = [(forward, (self.layer, by(self.params), by(self.forward)))]
        if self.operation == "backward":
            calls.append((c.fbn_backward,
                          (self.layer, by(self.params), by(self.backward), by(self.grads))))
        return calls

    def use(self, x, dy):
        """Other tensors of the same shapes from now on."""
        self.x, self.dy = x, dy
        if self.operation == "prepared":
            self.run.x = x.data_ptr()
        else:
            self.forward.x = x.data_ptr()
        if self.operation == "backward":
            self.backward.x, self.backward.dy = x.data_ptr(), dy.data_ptr()

    def __call__(self):
        for function, arguments in self.calls:
            if function(*arguments) != 0:
                sys.exit(f"torch_peer: {self.lib.c.fbn_last_error().decode()}")

    def results(self):
        if self.operation != "backward":
            return {"y": self.y}
        return {"y": self.y, **{n: g for n, g in self.gradients.items() if n != "scale"}}

    def close(self):
        if self.operation == "prepared":
            self.lib.c.fbn_prepared_destroy(self.prepared)
        self.lib.c.fbn_layer_destroy(self.layer)


# ---------------------------------------------------------------------------------------- PyTorch


class Module(torch.nn.Module):
    """Linear, scale, BatchNorm1d; or Linear, BatchNorm1d, scale, Softmax."""

    def __init__(self, in_features, out_features, softmax):
        super().__init__()
        self.linear = torch.nn.Linear(in_features, out_features)
        self.scale = torch.nn.Parameter(torch.rand(1 if softmax else out_features) + 0.5)
        self.norm = torch.nn.BatchNorm1d(out_features, eps=EPS, momentum=MOMENTUM)
        self.softmax = torch.nn.Softmax(dim=1) if softmax else None
        torch.nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(self.norm.bias, -0.5, 0.5)

    def forward(self, x):
        u = self.linear(x)
        if self.softmax:
            return self.softmax(self.norm(u) * self.scale)
        return self.norm(u * self.scale)

    def cast(self, dtype):
        """W in dtype, everything else in float at least, as the library has it (and autocast)."""
        other = torch.float64 if dtype == torch.float64 else torch.float32
        self.to(other)
        self.linear.weight.data = self.linear.weight.data.to(dtype)
        return self


class HalfModule(torch.nn.Module):
    """A Module with a W of a half type. PyTorch's linear wants its bias in the same type, and its
    BatchNorm1d takes half data with float parameters."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        m = self.module
        u = torch.nn.functional.linear(x, m.linear.weight, m.linear.bias.to(x.dtype))
        if m.softmax:
            return m.softmax(m.norm(u) * m.scale.to(x.dtype))
        return m.norm(u * m.scale.to(x.dtype))


class TorchLayer:
    def __init__(self, module, parameters, x, dy, operation):
        self.module, self.parameters, self.operation, self.dy = module, parameters, operation, dy
        self.x = x.clone().requires_grad_(operation == "backward")
        module.train(operation in ("train", "backward"))
        self.y = None

    def use(self, x, dy):
        self.x, self.dy = x, dy

    def __call__(self):
        if self.operation == "backward":
            self.x.grad = None
            for p in self.module.parameters():
                p.grad = None
            self.y = self.module(self.x)
            self.y.backward(self.dy)
        else:
            with torch.no_grad():
                self.y = self.module(self.x)

    def results(self):
        results = {"y": self.y.detach()}
        if self.operation == "backward":
            m = self.parameters
            results.update(dx=self.x.grad, weight=m.linear.weight.grad, gamma=m.norm.weight.grad,
                           beta=m.norm.bias.grad)
        return results


class ExactLayer:
    """PyTorch in double, with rows and in_features in reverse order: so its sums round differently
    from those of PyTorch in double as a peer, and the two's difference tells their error."""

    def __init__(self, module, x, dy, operation):
        linear = module.linear
        exact = Module(linear.in_features, linear.out_features, module.softmax is not None)
        exact.load_state_dict(module.state_dict())
        exact.double().to(x.device)
        exact.linear.weight.data = exact.linear.weight.data.flip(1)
        self.layer = TorchLayer(exact, exact, x.double().flip(0, 1), dy.double().flip(0), operation)

    def results(self):
        self.layer()
        orders = {"y": [0], "dx": [0, 1], "weight": [1]}
        return {name: result.flip(orders.get(name, []))
                for name, result in self.layer.results().items()}


# ----------------------------------------------------------------------------- verify, then time


def verify(exact, eager, fused):
    """The library may err twice as much as PyTorch and 4 units in the last place of the largest
    entry. Returns the largest error as a part of that, or says what is wrong."""
    worst = 0.0
    for name, right in exact.items():
        error = (fused[name].double() - right).abs().max().item()
        allowed = 2 * (eager[name].double() - right).abs().max().item()
        allowed += 4 * torch.finfo(fused[name].dtype).eps * right.abs().max().item()
        if not error <= allowed:
            sys.exit(f"torch_peer: {name} is off by {error:g}, allowed are {allowed:g}")
        worst = max(worst, error / allowed)
    return worst


def choose_inner(run):
    inner = 1
    while True:
        start = time.perf_counter()
        for _ in range(inner):
            run()
        if time.perf_counter() - start >= SAMPLE:
            return inner
        inner *= 2


def time_in_turns(runs, rounds):
    """Median seconds a run of each."""
    for run in runs.values():
        run()
    inner = {name: choose_inner(run) for name, run in runs.items()}
    samples = {name: [] for name in runs}
    order = list(runs)
    for i in range(rounds):
        for name in order[i % len(order):] + order[:i % len(order)]:
            time.sleep(PAUSE)
            runs[name]()
            start = time.perf_counter()
            for _ in range(inner[name]):
                runs[name]()
            samples[name].append((time.perf_counter() - start) / inner[name])
    return {name: statistics.median(s) for name, s in samples.items()}


def compiled(module, layer):
    """The module through torch.compile, or None where that does not work."""
    try:
        torch.compiler.reset()  # or the cases before count towards the limit of recompilations
        result = TorchLayer(torch.compile(module), layer.parameters, layer.x.detach(), layer.dy,
                            layer.operation)
        result()
        return result
    except Exception as error:  # pylint: disable=broad-except; many kinds, none of them ours
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        print(f"torch_peer: torch.compile is left out: {first}", file=sys.stderr)
        return None


def run_case(library, context, case, dtype_name, options):
    name, batch, in_features, out_features, operation, softmax = case
    number, dtype = DTYPES[dtype_name]
    torch.manual_seed(1)
    module = Module(in_features, out_features, softmax).cast(dtype)
    x = (torch.rand(batch, in_features) * 2 - 0.5).to(dtype)
    dy = (torch.rand(batch, out_features) * 2 - 1).to(dtype)
    if operation in ("infer", "prepared"):
        module.norm.running_mean.uniform_(-0.5, 0.5)
        module.norm.running_var.uniform_(0.25, 0.75)

    exact = ExactLayer(module, x, dy, operation)
    fused = FusedLayer(library, context, module, x, dy, operation, number)
    runnable = module if dtype in (torch.float32, torch.float64) else HalfModule(module)
    eager = TorchLayer(runnable, module, x, dy, operation)
    fused()
    eager()
    worst = verify(exact.results(), eager.results(), fused.results())

    runs = {"library": fused, "eager": eager}
    if options.compile:
        peer = compiled(runnable, eager)
        if peer is not None:
            runs["compiled"] = peer
    seconds = time_in_turns(runs, options.repeat)
    line = f"{name:<26} {dtype_name:<5} {1e6 * seconds['library']:>10.1f}"
    for peer in ("eager", "compiled"):
        if peer in seconds:
            ratio = seconds[peer] / seconds["library"]
            line += f" {1e6 * seconds[peer]:>10.1f} {ratio:>7.2f}"
        else:
            line += f" {'-':>10} {'-':>7}"
    print(f"{line} {worst:>5.2f}", flush=True)
    fused.close()


def find_library(path):
    here = os.path.dirname(os.path.abspath(__file__))
    candidates = [path] if path else [
        os.path.join(here, "..", "build", ".libs", "libfusedbn.so"),
        os.path.join(".libs", "libfusedbn.so"), ctypes.util.find_library("fusedbn")]
    for candidate in candidates:
        try:
            return Library(candidate) if candidate else None
        except OSError as error:
            reason = error
    sys.exit(f"torch_peer: libfusedbn was not found ({reason}); see --library")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--library", dest="shared_object",
                        help="libfusedbn.so (default: that in build/, or installed)")
    parser.add_argument("--case", default="", help="only cases whose names contain this")
    parser.add_argument("--dtype", default="f32",
                        help="f32, f64, bf16, f16, on cuda tf32 too (default: f32)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all")
    parser.add_argument("--repeat", type=int, default=31, help="rounds (default: 31)")
    parser.add_argument("--no-compile", dest="compile", action="store_false",
                        help="leave torch.compile out")
    options = parser.parse_args()
    if options.backend == "cuda":
        import torch_peer_cuda  # pylint: disable=import-outside-toplevel; needs this module
        torch_peer_cuda.run(options, find_library(options.shared_object))
        return
    dtypes = options.dtype.split(",")
    if not set(dtypes) <= set(DTYPES):
        parser.error(f"--dtype {options.dtype}: expected {', '.join(DTYPES)}")
    cases = [case for case in CASES if options.case in case[0]]
    if not cases:
        parser.error(f"--case {options.case}: no such case: {', '.join(c[0] for c in CASES)}")

    library = find_library(options.shared_object)
    torch.set_num_threads(options.threads)
    context = ctypes.c_void_p()
    settings = library.make(ContextOptions, backend=BACKEND_CPU, threads=options.threads)
    library.call("fbn_context_create", ctypes.byref(context), ctypes.byref(settings))
    print(f"libfusedbn {library.c.fbn_version().decode()}; "
          f"{library.c.fbn_context_describe(context).decode()}")
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
    print("Medians of interleaved runs in us; x: PyTorch's time over the library's; err: the\n"
          "library's error as a part of that allowed (twice PyTorch's and 4 ulp).\n")
    print(f"{'case':<26} {'dtype':<5} {'library':>10} {'eager':>10} {'x':>7} {'compiled':>10} "
          f"{'x':>7} {'err':>5}")
    for case in cases:
        for dtype in dtypes:
            run_case(library, context, case, dtype, options)
    library.c.fbn_context_destroy(context)


if __name__ == "__main__":
    main()
