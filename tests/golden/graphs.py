"""Graphs of tensor operations: the one description that PyTorch and the engine both run.

A graph is a dictionary

    inputs:   [{"dtype", "shape", "data", "grad"}]      nodes 0, 1, ..
    steps:    [[operation, [node, ..], {option: value}]] each adds its results as further nodes
    outputs:  [node, ..]                                 what is compared

and `finish` adds what PyTorch gives in float64: the outputs, and the gradients of the inputs with
"grad" for the loss `sum of weights(output) * output` over the outputs that depend on them. An
operation has the name and the options of the engine's tensor method.

Every number comes with a bound on a device's error. It is measured by stochastic arithmetic: the
graph runs again with a random relative error of AMPLIFIED unit roundoffs in every value that a
device rounds, forward and backward (in the operands of a sum, so that cancellation is felt; in the
slopes of transcendental functions, whose derivatives are differences), and what comes out differs
from the exact result by the bound. So it grows with depth and magnitudes, and on a well-conditioned
graph it is a few roundings: a wrong gradient cannot hide in it.
"""

import contextlib
import json
import math
import random

import torch
import torch.nn.functional as F

from make_elementwise import functions as elementwise
from make_elementwise import plain

UNIT = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
# How many roundings each noise stands for: library functions are good to a few units, and the
# noise must exceed what it bounds. Narrow values are rounded once, correctly.
AMPLIFIED = {"f32": 16, "f16": 3, "bf16": 3}
# Below this there is no relative accuracy: f16 has few subnormal numbers, and a device may flush
# those of f32.
SUBNORMAL = {"f32": 2.0**-126, "f16": 2.0**-24, "bf16": 2.0**-126}
RUNS = 6
DTYPES = {"i32": torch.int32, "u32": torch.int64, "u8": torch.uint8, "i8": torch.int8}


class Unstable(Exception):
    """The result depends on how something was rounded: a comparison of nearly equal values."""


class Noise:
    """Random errors of one run between half a unit and one; without a seed there are none."""

    def __init__(self, seed=None):
        self.draw = None if seed is None else torch.Generator().manual_seed(seed)

    def signs(self, x):
        drawn = torch.rand(x.shape, generator=self.draw, dtype=torch.float64) - 0.5
        return drawn + torch.where(drawn < 0, -0.5, 0.5)

    def on(self, x, dtype, forward, slope=0.0):
        """`x` with errors of its dtype: in the value if `forward`, in the gradient always."""
        if self.draw is None or dtype not in UNIT or not x.is_floating_point():
            return x
        size, least = AMPLIFIED[dtype] * UNIT[dtype], SUBNORMAL[dtype]
        return Rounded.apply(x, size, least, forward, self)


class Inside:
    """The noise of one operation's own steps."""

    def __init__(self, noise, dtype):
        self.noise, self.dtype = noise, dtype

    def __call__(self, x):
        return self.noise.on(x, self.dtype, True)

    def tilt(self, y, x, slope=1.0):
        """`y` with an error of its derivative by `x` alone, as large as a rounding of `slope`."""
        size = AMPLIFIED[self.dtype] * UNIT[self.dtype]
        return y + size * self.noise.signs(x) * slope * torch.nan_to_num(x - x.detach())

    def tilt_rows(self, y, x, slope):
        """The same where each element of a row of `y` is derived by all of `x`."""
        size = AMPLIFIED[self.dtype] * UNIT[self.dtype] * x.shape[-1] ** -0.5
        mixed = torch.nan_to_num(x - x.detach()) @ self.noise.signs(x.new_empty(x.shape[-1:] * 2))
        return y + size * slope * mixed


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, size, least, forward, noise):
        ctx.size, ctx.least, ctx.noise = size, least, noise
        moved = x + noise.signs(x) * (x.abs() * size + least)
        return torch.where(x.isfinite(), moved, x) if forward else x.clone()

    @staticmethod
    def backward(ctx, g):
        noisy = g + ctx.noise.signs(g) * (g.abs() * ctx.size + ctx.least * (g != 0))
        return noisy, None, None, None, None


# Operations --------------------------------------------------------------------------------------

# What is rounded: nothing, the result, also the operands (sums), also the slope (functions).
EXACT, ROUND, SUM, SMOOTH = range(4)
OPS = {}
# Functions that are good to a part of their argument only: what they subtract may cancel.
ABSOLUTE = "gelu gelu_tanh mish sin cos erf tanh softplus elu log".split()


def op(name, rounding, f, torch_name=None, noisy=False):
    """`f` takes the noise of its dtype as its first argument if `noisy`."""
    OPS[name] = (rounding, f, torch_name, noisy)


def reduction(f):
    """`f` over several axes; no axes is each element by itself."""

    def run(x, axes, keep, **options):
        if not axes:
            return f(x.unsqueeze(-1), [-1], False, **options)
        return f(x, axes, keep, **options)

    return run


def sliced(x, axis, start, len, step):
    # PyTorch's slices have no negative steps.
    at = torch.tensor([start + i * step for i in range(len)], dtype=torch.int64)
    if step > 0:
        size = (len - 1) * step + 1 if len else 0
        return x.narrow(axis, start if len else 0, size)[(slice(None),) * axis + (slice(None, None, step),)]
    return x.index_select(axis, at)


def norm(f, spread):
    """The gradient is what three sums leave of `rstd g`: its errors are of that size, even where
    next to nothing is left."""

    def run(noise, x, *rest, given=(), eps):
        parts = dict(zip(given, rest))
        y = f(x, x.shape[-1:], eps=eps)
        if noise is not None:
            y = noise.tilt_rows(noise(y), x, (spread(x.detach()) + eps).rsqrt())
        y = y * parts["weight"] if "weight" in parts else y
        return y + parts["bias"] if "bias" in parts else y

    return run


# With noise, softmax is written out with the logarithm of its sum as a value of its own, as devices
# compute it: its rounding does not cancel.


def log_softmax(noise, x, axis):
    if noise is None:
        return x.log_softmax(axis)
    largest = torch.nan_to_num(x.detach().amax(axis, keepdim=True)) if x.shape[axis] else 0
    # The sum is at least 1: what is small beside it is lost, though its logarithm is next to 0.
    total = noise((x - largest).exp().sum(axis, keepdim=True))
    return x - noise(noise(largest + total.log()))


def softmax(noise, x, axis):
    if noise is None:
        return x.softmax(axis)
    largest = torch.nan_to_num(x.detach().amax(axis, keepdim=True)) if x.shape[axis] else 0
    return noise(log_softmax(noise, noise(x - largest), axis).exp())


def cross_entropy(noise, logits, targets, reduction, ignore_index=None):
    flat = logits.reshape(-1, logits.shape[-1])
    given = {} if ignore_index is None else {"ignore_index": ignore_index}
    logs = log_softmax(noise, flat, -1)
    out = F.nll_loss(logs, targets.reshape(-1).long(), reduction=reduction, **given)
    return out if reduction == "mean" else out.reshape(targets.shape)


def embedding(x, index):
    # Not x[index], where a negative index counts from the end.
    return x.index_select(0, index.flatten().long()).reshape([*index.shape, *x.shape[1:]])


def linear(noise, x, w, *bias, layout, activation=None):
    y = F.linear(x, w if layout == "out_in" else w.mT, *bias)
    if activation is None:
        return y
    activation = elementwise()[activation][0]
    if noise is None:
        return activation(y)
    inside = noise(y)
    return noise.tilt(activation(inside), inside)


def attention(noise, q, k, v, *mask, causal=False, scale=None):
    queries, keys = q.shape[2], k.shape[2]
    bias = torch.zeros(queries, keys, dtype=torch.float64)
    if causal:
        seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        bias = bias.masked_fill(~seen, -math.inf)
    for m in mask:
        kept = torch.zeros(m.shape, dtype=torch.float64).masked_fill(m == 0, -math.inf)
        bias = bias + (m if m.is_floating_point() else kept)
    shared = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(shared, dim=1) for t in (k, v))
    # Written out, since the library's kernel answers a row without a key in its own way.
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale) + bias
    if noise is not None:
        scores = noise(scores)
    return softmax(noise, scores, -1) @ v


def attention_packed(noise, x, *mask, heads, kv_heads, **options):
    batch, length, width = x.shape
    dim = width // (heads + 2 * kv_heads)
    parts = x.split([heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
    q, k, v = (p.reshape(batch, length, -1, dim).transpose(1, 2) for p in parts)
    out = attention(noise, q, k, v, *mask, **options)
    return out.transpose(1, 2).reshape(batch, length, heads * dim)


def cast(x, dtype):
    if dtype in UNIT:
        # Another type is other memory, though both are float64 here; `step` sees to the same type.
        return x.double().clone()
    if x.is_floating_point() and x.numel() and (x - x.round()).abs().max() > 0:
        margin = (x - x.round()).abs()
        if margin[margin > 0].min() < 1e-3:
            raise Unstable("a conversion to an integer near a whole number")
    return x.detach().trunc().to(DTYPES[dtype])


def define():
    exact = "neg abs floor round relu minimum maximum lt le eq gt ge ne select clamp".split()
    rounded = "sqr reciprocal sqrt add sub mul div leaky_relu fma".split()
    rounded += ["squared_error", "absolute_error", "huber_error"]
    for name, (f, tensors, scalars, _, _) in elementwise().items():
        if name == "dropout":
            continue
        if name == "clamp":
            # PyTorch 2.15 has no slope at the bounds; the engine keeps the older 1.
            f = lambda x, lo, hi: torch.where((x >= lo) & (x <= hi), x, x.detach().clamp(lo, hi))  # noqa: E731
        kind = EXACT if name in exact else ROUND if name in rounded else SMOOTH

        def run(*x, f=f, scalars=tuple(scalars), values=()):
            x = torch.broadcast_tensors(*(t.double() for t in x))
            return f(*x, **dict(zip(scalars, values)))

        if name in ("floor", "round"):
            # Steps are outside the graph of gradients.
            op(name, EXACT, lambda x, f=f: f(x.detach()))
        elif name in ("lt", "le", "eq", "gt", "ge", "ne"):
            op(name, EXACT, lambda a, b, f=getattr(torch, name): f(a, b).to(torch.uint8))
        else:
            op(name, kind, run)
    for name in ("add", "sub", "mul", "div", "pow"):
        f = getattr(torch, name)
        kind = SMOOTH if name == "pow" else ROUND
        op(f"{name}_scalar", kind, lambda x, value, f=f: f(x, torch.tensor(value).double()))
    op("apply", SMOOTH, lambda *x, definition, values=(): elementwise()[definition][0](*x, *values))
    op("masked_fill", EXACT, lambda x, m, value: x.masked_fill(m != 0, value))

    op("sum", SUM, reduction(lambda x, a, k: x.sum(a, keepdim=k)))
    op("mean", SUM, reduction(lambda x, a, k: x.mean(a, keepdim=k)))
    op("max", EXACT, reduction(lambda x, a, k: x.amax(a, keepdim=k)), "amax")
    op("min", EXACT, reduction(lambda x, a, k: x.amin(a, keepdim=k)), "amin")
    op("var", SUM, reduction(lambda x, a, k, correction: x.var(a, correction=correction, keepdim=k)))
    op("argmax", EXACT, lambda x, axis, keep: x.argmax(axis, keepdim=keep).int())
    op("argmin", EXACT, lambda x, axis, keep: x.argmin(axis, keepdim=keep).int())
    op("sum_all", SUM, lambda x: x.sum(), "sum")
    op("mean_all", SUM, lambda x: x.mean(), "mean")

    op("reshape", EXACT, lambda x, shape: x.reshape(shape))
    op("permute", EXACT, lambda x, axes: x.permute(axes))
    op("transpose", EXACT, lambda x, a, b: x.transpose(a, b))
    op("narrow", EXACT, lambda x, axis, start, len: x.narrow(axis, start, len))
    op("slice", EXACT, sliced, "__getitem__")
    op("broadcast_to", EXACT, lambda x, shape: x.broadcast_to(shape))
    op("unsqueeze", EXACT, lambda x, axis: x.unsqueeze(axis))
    op("squeeze", EXACT, lambda x, axis: x.squeeze(axis))
    op("flatten", EXACT, lambda x: x.flatten())
    op("contiguous", EXACT, lambda x: x.contiguous())
    op("itself", EXACT, lambda x: x)
    op("to_dtype", ROUND, cast, "to")
    op("cat", EXACT, lambda *x, axis: torch.cat(x, axis))
    op("stack", EXACT, lambda *x, axis: torch.stack(x, axis))
    op("split", EXACT, lambda x, axis, lengths: list(x.split(lengths, axis)))
    op("chunk", EXACT, lambda x, axis, parts: list(x.chunk(parts, axis)))
    op("unbind", EXACT, lambda x, axis: list(x.unbind(axis)))

    op("softmax", SMOOTH, softmax, noisy=True)
    op("log_softmax", SMOOTH, log_softmax, noisy=True)
    variance = lambda x: x.var(-1, correction=0, keepdim=True)  # noqa: E731
    squares = lambda x: x.square().mean(-1, keepdim=True)  # noqa: E731
    op("layer_norm", SUM, norm(F.layer_norm, variance), noisy=True)
    op("rms_norm", SUM, norm(F.rms_norm, squares), noisy=True)
    for name, kind in (("cross_entropy_rows", "none"), ("cross_entropy", "mean")):
        loss = lambda *x, kind=kind, **o: cross_entropy(*x, reduction=kind, **o)  # noqa: E731
        op(name, SMOOTH, loss, "cross_entropy", noisy=True)

    op("gather", EXACT, lambda x, i, axis: x.gather(axis, i.long()))
    op("embedding", EXACT, embedding)
    op("scatter_add", SUM, lambda x, i, s, axis: x.scatter_add(axis, i.long(), s))
    op("matmul", SUM, torch.matmul)
    op("linear", SMOOTH, linear, noisy=True)
    op("attention", SMOOTH, attention, "scaled_dot_product_attention", noisy=True)
    packed = "scaled_dot_product_attention"
    op("attention_packed", SMOOTH, attention_packed, packed, noisy=True)

    op("full", EXACT, lambda shape, dtype, value: torch.full(shape, value).to(kind_of(dtype)))
    op("zeros", EXACT, lambda shape, dtype: torch.zeros(shape).to(kind_of(dtype)))
    op("ones", EXACT, lambda shape, dtype: torch.ones(shape).to(kind_of(dtype)))
    op("zeros_like", EXACT, lambda x: torch.zeros_like(x.detach()))
    op("arange", EXACT, lambda n: torch.arange(n).double())
    op("to_device", EXACT, lambda x: x.clone(), "to")
    op("detach", EXACT, lambda x: x.detach())


def kind_of(dtype):
    return DTYPES.get(dtype, torch.float64)


define()


# Steps that are no functions: they write, or move gradients. They add a node only if they say so.


def overwrite(run, x, data):
    with torch.no_grad():
        run.at(x).copy_(torch.tensor(data).double().reshape(run.at(x).shape))


def assign(run, x, source, axis, start):
    with torch.no_grad():
        source = run.at(source)
        run.at(x).narrow(axis, start, source.shape[axis]).copy_(source)


def send(run, y, upstream=None):
    g = torch.ones_like(run.at(y)) if upstream is None else run.at(upstream)
    run.at(y).backward(g)


def set_gradient(run, x, gradient=None):
    run.at(x).grad = None if gradient is None else run.at(gradient).clone()


def gradient_of(run, x):
    run.add(run.at(x).grad.clone(), run.dtypes[x])


ACTIONS = {
    "copy_from_slice": overwrite,
    "slice_assign": assign,
    "backward": send,
    "backward_with": send,
    "set_grad": set_gradient,
    "zero_grad": set_gradient,
    "grad": gradient_of,
    "look": lambda run, x: None,
}


# Running -----------------------------------------------------------------------------------------


def number(x):
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.get(x, x)


def weights(shape):
    """The loss's weight of each element of an output: exact in every type, some of them 0."""
    j = torch.arange(math.prod(shape))
    return (((7 * j + 3) % 11 - 5) / 4).double().reshape(shape)


def result_dtype(name, options, dtypes, value):
    if not value.is_floating_point():
        return {torch.int32: "i32", torch.int64: "u32", torch.uint8: "u8"}.get(value.dtype, "i8")
    if name in ("to_dtype", "full", "zeros", "ones"):
        return options["dtype"]
    return next((d for d in dtypes if d in UNIT), "f32")


class Run:
    """One pass over a graph."""

    def __init__(self, graph, noise=Noise()):
        self.noise, self.nodes, self.dtypes, self.leaves, self.choices = noise, [], [], [], []
        for x in graph["inputs"]:
            data = [number(v) for v in x["data"]]
            t = torch.tensor(data, dtype=kind_of(x["dtype"])).reshape(x["shape"])
            if x.get("grad"):
                t.requires_grad_()
                self.leaves.append(t)
            self.add(t, x["dtype"])
        for name, nodes, *options in graph["steps"]:
            self.step(name, nodes, *options)

    def at(self, i):
        return self.nodes[i]

    def add(self, value, dtype):
        self.nodes.append(value)
        self.dtypes.append(dtype)

    def step(self, name, nodes, options={}):
        if name in ACTIONS:
            return ACTIONS[name](self, *nodes, **options)
        if name == "to_dtype" and options["dtype"] == self.dtypes[nodes[0]]:
            name, options = "itself", {}
        rounding, f, _, noisy = OPS[name]
        noise, x = self.noise, [self.nodes[i] for i in nodes]
        dtypes = [self.dtypes[i] for i in nodes]
        given = [noise.on(t, d, rounding >= SUM) for t, d in zip(x, dtypes)]
        own = next((d for d in dtypes if d in UNIT), "f32")
        # A view must stay one: what is written to its source later shows through it.
        plain_view = rounding == EXACT and not any(t.requires_grad for t in x)
        operands = x if plain_view else given
        if noisy:
            inside = None if noise.draw is None else Inside(noise, own)
            operands = [inside, *operands]
        results = f(*operands, **options)
        many = results if isinstance(results, list) else [results]
        for value in many:
            dtype = result_dtype(name, options, dtypes, value)
            if rounding == SMOOTH and noise.draw is not None:
                value = self.tilt(value, given, dtype)
                function = options.get("activation", options.get("definition", name))
                if function in ABSOLUTE:
                    value = value + self.noise.signs(value) * UNIT[dtype] * 4 * (1 + value.detach().abs())
            taped = value.requires_grad
            if rounding != EXACT or taped:
                value = noise.on(value, dtype, rounding != EXACT)
            if not value.is_floating_point():
                self.choices.append(value)
            self.add(value, dtype)

    def tilt(self, value, operands, dtype):
        """Adds an error to the slopes alone: one unit of the largest operand's."""
        size = AMPLIFIED[dtype] * UNIT[dtype]
        for x in operands:
            if x.requires_grad and x.shape == value.shape:
                value = value + size * self.noise.signs(x) * torch.nan_to_num(x - x.detach())
        return value

    def gradients(self, outputs):
        """The gradients of the loss over `outputs`; zeros for what does not reach it."""
        taped = [self.nodes[i] for i in outputs if self.nodes[i].requires_grad]
        if taped:
            loss = sum((y * weights(y.shape)).sum() for y in taped)
            loss.backward()
        return [x.grad for x in self.leaves]


def finish(graph):
    """Adds PyTorch's values, gradients and bounds; raises Unstable where rounding decides."""
    outputs = graph["outputs"]

    def results(noise):
        # What backward reads is what forward saw, also where memory was overwritten since.
        writes = any(step[0] in ("copy_from_slice", "slice_assign") for step in graph["steps"])
        keeping = torch.autograd.graph.allow_mutation_on_saved_tensors
        with keeping() if writes else contextlib.nullcontext():
            run = Run(graph, noise)
            values = [run.at(i).detach().clone() for i in outputs]
            return run, values + run.gradients(outputs)

    exact, truths = results(Noise())
    if any(t is not None and not sane(t) for t in truths + exact.nodes) and not graph.get("special"):
        raise Unstable("numbers beyond f16")
    errors = [None if t is None else torch.zeros(t.shape).double() for t in truths]
    for seed in range(RUNS):
        noisy, found = results(Noise(seed))
        if any(not torch.equal(a, b) for a, b in zip(exact.choices, noisy.choices)):
            raise Unstable("a choice depends on rounding")
        for k, (truth, other) in enumerate(zip(truths, found)):
            if truth is not None and truth.is_floating_point():
                if not torch.equal(truth.isfinite(), other.isfinite()):
                    raise Unstable("rounding makes an infinity")
                moved = torch.where(truth.isfinite(), (truth - other).abs(), 0.0)
                errors[k] = torch.maximum(errors[k], moved)
    dtypes = [exact.dtypes[i] for i in outputs]
    dtypes += [x["dtype"] for x in graph["inputs"] if x.get("grad")]
    found = [None if t is None else array(*given) for given in zip(truths, errors, dtypes) for t in given[:1]]
    for i, golden in zip(outputs, found):
        golden |= {"taped": True} if exact.at(i).requires_grad else {}
    graph["values"], graph["gradients"] = found[: len(outputs)], found[len(outputs) :]
    return graph


def sane(x):
    return bool((x.abs() < 3e4).all())


def array(truth, error, dtype):
    """A golden array: shape, numbers of ten digits, and the bound of each."""
    out = {"shape": list(truth.shape)}
    if not truth.is_floating_point():
        return out | {"dtype": dtype, "data": truth.flatten().tolist()}
    own = UNIT[dtype]
    few = own * max(1, AMPLIFIED[dtype] // 4)
    bound = error + few * torch.nan_to_num(truth.abs()) + SUBNORMAL[dtype]
    out["data"] = [short(x, 10) for x in truth.flatten().tolist()]
    bounds = [short(x, 2) for x in bound.flatten().tolist()]
    out["bound"] = bounds
    return out


def short(x, digits):
    if not math.isfinite(x):
        return plain(x)
    x = float(f"{x:.{digits}g}")
    return int(x) if x == int(x) and abs(x) < 1e15 else x


def line(graph):
    return json.dumps(plain(graph), separators=(",", ":"), allow_nan=False)


def data(draw, n, scale=4, reach=8):
    """`n` multiples of 1/scale, exact in every float type."""
    return [short(draw.randint(-reach * scale // 4, reach * scale // 4) / scale, 6) for _ in range(n)]


def tensor(draw, *shape, dtype="f32", grad=True, scale=16, reach=8, low=None):
    values = data(draw, math.prod(shape), scale, reach)
    if low is not None:
        values = [short(low + abs(v), 8) for v in values]
    return {"dtype": dtype, "shape": list(shape), "data": values} | ({"grad": True} if grad else {})
