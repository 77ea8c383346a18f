# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch beside the library on a GPU: the part of torch_peer.py behind --backend cuda.

Both run on one stream, and are timed between events in turns: as calls, and as replays of a CUDA
graph of as many calls. The calls take one x (and dy) after the other, together several times as
large as the L2 cache, so that these come from memory; the weight stays where the cache keeps it,
for all alike. "product" is x @ W.T alone, and with the gradients' two products in a backward.
"""

import ctypes
import statistics
import sys

import torch
import torch._dynamo

# torch_peer.py is the program, and so is not known by its name.
peer = sys.modules["__main__"] if hasattr(sys.modules["__main__"], "FusedLayer") else __import__(
    "torch_peer")

SHAPES = [(16384, 4096, 4096), (1024, 8192, 8192), (128, 1024, 512), (65536, 512, 512)]
OPERATIONS = [("train", False), ("train", True), ("infer", False), ("prepared", False),
              ("backward", False)]
PRECISIONS = {  # number in fbn_dtype, in fbn_math, PyTorch's type
    "f32": (0, 0, torch.float32),
    "tf32": (0, 1, torch.float32),
    "bf16": (2, 0, torch.bfloat16),
    "f16": (3, 0, torch.float16),
}
TIMES_CACHE, MOST_SETS, SAMPLE = 4, 64, 1e-3


class Product:
    """The products alone; dy stands for the gradient by x @ W.T."""

    def __init__(self, weight, x, dy, operation):
        self.weight, self.x, self.dy, self.operation = weight.detach(), x, dy, operation

    def use(self, x, dy):
        self.x, self.dy = x.detach(), dy

    def __call__(self):
        with torch.no_grad():
            result = [self.x @ self.weight.T]
            if self.operation == "backward":
                result += [self.dy @ self.weight, self.dy.T @ self.x]
        return result


class Contestant:
    """Something that runs on one set of tensors after the other, and its graph."""

    def __init__(self, run, sets, stream):
        self.run, self.sets, self.stream = run, sets, stream
        self.calls, self.graph = len(sets), None

    def queue(self):
        for i in range(self.calls):
            self.run.use(*self.sets[i % len(self.sets)])
            self.run()

    def seconds(self, replay):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(self.stream)
        if replay:
            self.graph.replay()
        else:
            self.queue()
        stop.record(self.stream)
        stop.synchronize()
        return 1e-3 * start.elapsed_time(stop) / self.calls

    def prepare(self):
        """Warms up, finds how many calls make a sample long enough, and captures as many."""
        for _ in range(2):
            seconds = self.seconds(False)
        while seconds * self.calls < SAMPLE:
            self.calls *= 2
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.queue()
        self.seconds(True)


def compiled(module, layer):
    """The module through torch.compile, on its own: what was compiled before counts towards a
    limit, beyond which PyTorch runs the module as it is and says nothing."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    result = peer.TorchLayer(torch.compile(module, dynamic=False), layer.parameters,
                             layer.x.detach(), layer.dy, layer.operation)
    result()
    if torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0:
        raise RuntimeError("nothing was compiled")
    return result


def make_sets(batch, in_features, out_features, dtype, operation):
    backward = operation == "backward"
    size = torch.empty(0, dtype=dtype).element_size() * batch
    size *= in_features + (out_features if backward else 0)
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    count = max(2, min(MOST_SETS, -(-TIMES_CACHE * cache // size)))
    sets = []
    for _ in range(count):
        x = (torch.rand(batch, in_features, device="cuda") * 2 - 0.5).to(dtype)
        dy = None
        if backward:
            dy = (torch.rand(batch, out_features, device="cuda") * 2 - 1).to(dtype)
        sets.append((x.requires_grad_(backward), dy))
    return sets


def time_in_turns(contestants, rounds):
    """Median seconds of a call and of a replay."""
    samples = {name: ([], []) for name in contestants}
    order = list(contestants)
    for i in range(rounds):
        for name in order[i % len(order):] + order[:i % len(order)]:
            for replay in (False, True):
                samples[name][replay].append(contestants[name].seconds(replay))
    return {name: tuple(statistics.median(s) for s in both) for name, both in samples.items()}


def run_case(library, context, stream, shape, operation, softmax, precision, options):
    batch, in_features, out_features = shape
    number, math, dtype = PRECISIONS[precision]
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.manual_seed(1)
    module = peer.Module(in_features, out_features, softmax).cast(dtype).to("cuda")
    if operation in ("infer", "prepared"):
        module.norm.running_mean.uniform_(-0.5, 0.5)
        module.norm.running_var.uniform_(0.25, 0.75)
    sets = make_sets(batch, in_features, out_features, dtype, operation)
    x, dy = sets[0][0].detach(), sets[0][1]
    some_dy = dy if dy is not None else x

    exact = peer.ExactLayer(module, x, some_dy, operation)
    fused = peer.FusedLayer(library, context, module, x, dy, operation, number, math)
    runnable = module if dtype == torch.float32 else peer.HalfModule(module)
    eager = peer.TorchLayer(runnable, module, x, dy, operation)
    fused()
    eager()
    worst = peer.verify(exact.results(), eager.results(), fused.results())
    del exact

    runs = {"library": fused, "eager": eager}
    if options.compile:
        runs["compiled"] = compiled(runnable, eager)
    runs["product"] = Product(module.linear.weight, x, dy, operation)
    contestants = {name: Contestant(run, sets, stream) for name, run in runs.items()}
    for contestant in contestants.values():
        contestant.prepare()
    seconds = time_in_turns(contestants, options.repeat)
    name = f"{'softmax' if softmax else operation}-{batch}x{in_features}x{out_features}"
    line = f"{name:<25} {precision:<5}"
    for contestant in ("library", "product", "eager", "compiled"):
        if contestant not in seconds:
            line += f" {'-':>9} {'-':>9}"
            continue
        call, replay = seconds[contestant]
        line += f" {1e6 * call:>9.1f} {1e6 * replay:>9.1f}"
    for contestant in ("eager", "compiled"):
        ratio = "-"
        if contestant in seconds:
            ratio = f"{seconds[contestant][1] / seconds['library'][1]:.2f}"
        line += f" {ratio:>8}"
    print(f"{line} {worst:>5.2f}", flush=True)
    torch.cuda.synchronize()
    fused.close()


def run(options, library):
    precisions = options.dtype.split(",")
    if not set(precisions) <= set(PRECISIONS):
        sys.exit(f"torch_peer: --dtype {options.dtype}: expected {', '.join(PRECISIONS)}")
    stream = torch.cuda.Stream()
    context = ctypes.c_void_p()
    settings = library.make(peer.ContextOptions, backend=peer.BACKEND_CUDA,
                            stream=stream.cuda_stream)
    library.call("fbn_context_create", ctypes.byref(context), ctypes.byref(settings))
    print(f"libfusedbn {library.c.fbn_version().decode()}; "
          f"{library.c.fbn_context_describe(context).decode()}")
    print(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
    print("Medians of runs in turns in us, each as calls on a stream and as replays of a CUDA\n"
          "graph; x: PyTorch's replays over the library's; err: the library's error as a part of\n"
          "that allowed (twice PyTorch's and 4 ulp).\n")
    print(f"{'case':<25} {'data':<5} {'library':>9} {'graph':>9} {'product':>9} {'graph':>9} "
          f"{'eager':>9} {'graph':>9} {'compiled':>9} {'graph':>9} {'eager x':>8} {'comp. x':>8} "
          f"{'err':>5}")
    with torch.cuda.stream(stream):
        for operation, softmax in OPERATIONS:
            for shape in SHAPES:
                name = f"{'softmax' if softmax else operation}-{'x'.join(map(str, shape))}"
                if not any(part in name for part in options.case.split(",")):
                    continue
                for precision in precisions:
                    run_case(library, context, stream, shape, operation, softmax, precision,
                             options)
    torch.cuda.synchronize()
    library.c.fbn_context_destroy(context)
