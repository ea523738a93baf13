"""Writes elementwise.json: values and gradients of every elementwise definition, by PyTorch.

Everything is computed in float64 from arguments that are exact in float32, so a float32 result may
be compared with the golden number rounded to float32 (an overflow then becomes an infinity).
"""

import json
import math
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

INF, NAN = math.inf, math.nan
ORDINARY_ROWS = 18


# Arguments ---------------------------------------------------------------------------------------


def f32(x):
    """The nearest number that float32 holds, as a Python float."""
    return float(np.float32(x))


ANYWHERE = [0.0, -0.0, 1e-30, -1e-30, 100, -100, 1e4, -1e4, INF, -INF, NAN, 1e-4, -1e-4]
# Of the values outside a domain one is enough: the result is NaN.
# Angles of every size: around 2^17 and 2^22, where reductions change, to the largest float32, and
# the float32 that is nearest to a multiple of pi/2.
ANGLES = ANYWHERE + [
    2.0**17, 2.0**17 + 2**-6, 2.0**22, 2.0**22 + 0.5, 1e6, -1e7, 1e8, 1e10, -1e15, 1e20, 1e22,
    -1e30, 1e38, -3.4028234663852886e38, 16367173 * 2.0**72,
]  # fmt: skip
POSITIVE = [0.0, -0.0, 1e-30, 1e-4, 100, 1e4, INF, NAN, -1]
ABOVE_MINUS_ONE = [0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 100, 1e4, INF, NAN, -1, -2]
HALVES = ANYWHERE + [0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 3]
BOUNDS = ANYWHERE + [1, -1]

PAIRS = [
    (0.0, 0.0), (-0.0, 0.0), (0.0, -0.0), (1.5, 1.5), (-2, -2), (1e-30, -1e-30), (-1e-30, 2),
    (100, -100), (1e4, 1e4), (-1e4, 100), (INF, 1), (1, INF), (-INF, -1), (1, -INF), (INF, INF),
    (INF, -INF), (NAN, 1), (1, NAN), (NAN, NAN),
]  # fmt: skip
QUOTIENTS = [
    (0.0, 1), (-0.0, 1), (1, 0.0), (-1, 0.0), (1, -0.0), (0.0, 0.0), (1e-30, 1e-30), (1, 1e-30),
    (-1e-30, 100), (100, -100), (1e4, 1e4), (-1e4, 1e-4), (INF, 2), (2, INF), (-2, INF),
    (INF, -INF), (NAN, 1), (1, NAN),
]  # fmt: skip
POWERS = [
    (0.0, 0.0), (0.0, 2), (0.0, -1), (0.0, -2), (0.0, -3), (-0.0, 3), (-0.0, -3), (-2, 3), (-2, 2),
    (-2, -3), (-2, 0.5), (1e-30, 0.5), (1e-30, -1), (100, 4), (1e4, -2), (1, 1e4), (2, -100),
    (INF, 2), (INF, -1), (2, INF), (2, -INF), (0.5, INF), (1, NAN), (NAN, 0.0), (NAN, 1), (2, NAN),
]  # fmt: skip
GATED = [
    (0.0, 2), (-0.0, 2), (1e-30, 1e4), (-1e-30, -1e4), (100, -100), (-100, 100), (1e4, 1e-4),
    (-1e4, 1e4), (1, INF), (INF, 1), (-INF, 1), (NAN, 1), (1, NAN),
]  # fmt: skip
HUBER = PAIRS + [(1.5, 0.5), (0.5, 1.5)]
TRIPLES = [
    (0.0, 0.0, 0.0), (0.0, 5, -0.0), (-0.0, 5, -0.0), (1e-30, 1e-30, 1), (-1e-30, 1e4, 1e-30),
    (100, 100, -1e4), (1e4, -1e4, 100), (1 + 2**-23, 1 - 2**-23, -1), (1e4, 1e4, NAN),
    (INF, 2, 1), (INF, 0.0, 1), (INF, 1, -INF), (NAN, 1, 1), (1, NAN, 1),
]  # fmt: skip
CHOICES = [
    (c, 1.25, -3.5) for c in (0.0, -0.0, 1, -1, 1e-30, -1e-30, 100, 1e4, -1e4, INF, -INF, NAN)
] + [(1, NAN, 2), (0.0, NAN, 2), (1, 2, NAN), (0.0, 2, NAN), (1, INF, 2), (0.0, 2, -INF)]
DROPS = [(x, u) for x in ANYWHERE for u in (0.125, 0.75)] + [
    (1.5, 0.0), (1.5, 0.25), (1.5, 0.25 - 2**-26), (1.5, 0.25 + 2**-25), (1.5, 1 - 2**-24),
]  # fmt: skip


def args_of(name, arity, special, low=-4.0, high=4.0, second=None, rows=ORDINARY_ROWS):
    """The special rows, then ordinary ones drawn from [low, high] (argument 1: from `second`)."""
    draw = random.Random(name)
    ranges = [(low, high)] * arity
    if second:
        ranges[1] = second
    special = [row if isinstance(row, tuple) else (row,) for row in special]
    ordinary = [tuple(draw.uniform(*r) for r in ranges) for _ in range(rows)]
    return [tuple(f32(x) for x in row) for row in special + ordinary]


# Definitions -------------------------------------------------------------------------------------


def as_real(f):
    return lambda a, b: f(a, b).double()


def softplus(x):
    # torch.nn.functional.softplus is the identity above a threshold; this is the formula itself.
    return torch.logaddexp(x, torch.zeros_like(x))


def dropout(x, u, p):
    return torch.where(u >= p, x / (1 - p), torch.zeros_like(x))


def functions():
    """name -> (function, tensors, scalars, rows of arguments, differentiable)"""
    table = {}

    def add(name, f, tensors, special, differentiable=True, scalars=None, **draw):
        tensors = tensors.split()
        rows = args_of(name, len(tensors), special, **draw)
        table[name] = (f, tensors, scalars or {}, rows, differentiable)

    positive = {"low": 0.0, "high": 4.0}
    add("neg", torch.neg, "x", ANYWHERE)
    add("abs", torch.abs, "x", ANYWHERE)
    add("sqr", lambda x: x * x, "x", ANYWHERE)
    add("reciprocal", torch.reciprocal, "x", ANYWHERE)
    add("sqrt", torch.sqrt, "x", POSITIVE, **positive)
    add("rsqrt", torch.rsqrt, "x", POSITIVE, **positive)
    add("exp", torch.exp, "x", ANYWHERE)
    add("expm1", torch.expm1, "x", ANYWHERE)
    add("log", torch.log, "x", POSITIVE, **positive)
    add("log1p", torch.log1p, "x", ABOVE_MINUS_ONE, low=-1.0, high=4.0)
    add("sin", torch.sin, "x", ANGLES)
    add("cos", torch.cos, "x", ANGLES)
    add("tanh", torch.tanh, "x", ANYWHERE)
    add("erf", torch.erf, "x", ANYWHERE)
    add("sigmoid", torch.sigmoid, "x", ANYWHERE)
    add("softplus", softplus, "x", ANYWHERE)
    add("floor", torch.floor, "x", HALVES)
    add("round", torch.round, "x", HALVES)
    add("relu", torch.relu, "x", ANYWHERE)
    add("gelu", F.gelu, "x", ANYWHERE)
    add("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), "x", ANYWHERE)
    add("silu", F.silu, "x", ANYWHERE)
    add("mish", F.mish, "x", ANYWHERE)
    add("hardswish", F.hardswish, "x", ANYWHERE)
    add(
        "leaky_relu",
        lambda x, slope: F.leaky_relu(x, slope),
        "x",
        ANYWHERE,
        scalars={"slope": 0.01},
    )
    add("elu", lambda x, alpha: F.elu(x, alpha), "x", ANYWHERE, scalars={"alpha": 1.0})
    add(
        "clamp",
        lambda x, lo, hi: torch.clamp(x, lo, hi),
        "x",
        BOUNDS,
        scalars={"lo": -1.0, "hi": 1.0},
    )

    add("add", torch.add, "a b", PAIRS)
    add("sub", torch.sub, "a b", PAIRS)
    add("mul", torch.mul, "a b", PAIRS)
    add("div", torch.div, "a b", QUOTIENTS)
    add("pow", torch.pow, "a b", POWERS, **positive, second=(-4.0, 4.0))
    add("minimum", torch.minimum, "a b", PAIRS)
    add("maximum", torch.maximum, "a b", PAIRS)
    for name in ("lt", "le", "eq", "gt", "ge", "ne"):
        add(name, as_real(getattr(torch, name)), "a b", PAIRS, differentiable=False)
    add("swiglu", lambda gate, up: F.silu(gate) * up, "gate up", GATED)
    add("squared_error", lambda a, b: (a - b) ** 2, "a b", PAIRS)
    add("absolute_error", lambda a, b: torch.abs(a - b), "a b", PAIRS)
    add(
        "huber_error",
        lambda a, b, delta: F.huber_loss(a, b, reduction="none", delta=delta),
        "a b",
        HUBER,
        scalars={"delta": 1.0},
    )

    add("fma", lambda a, b, c: a * b + c, "a b c", TRIPLES)
    add("select", lambda cond, a, b: torch.where(cond != 0, a, b), "cond a b", CHOICES)
    add("dropout", dropout, "x u", DROPS, second=(0.0, 1.0 - 2**-24), scalars={"p": 0.25})
    return table


def evaluate(f, args, scalars, differentiable):
    """One row: the value, and the derivative with respect to each argument."""
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=differentiable) for a in args]
    value = f(*leaves, **scalars)
    gradient = None
    if differentiable:
        found = torch.autograd.grad(value, leaves, allow_unused=True)
        gradient = [0.0 if g is None else g.item() for g in found]
    return {"args": list(args), "value": [value.item()], "gradient": gradient}


# Updates -----------------------------------------------------------------------------------------


def one_step(optimizer_class, p, g, state, **hyper):
    """One step of a real torch optimizer from a given state; the parameter and state after it."""
    p = torch.tensor([p], dtype=torch.float64, requires_grad=True)
    p.grad = torch.tensor([g], dtype=torch.float64)
    optimizer = optimizer_class([p], foreach=False, **hyper)
    for key, x in state.items():
        # torch keeps `step` as a scalar and the rest in the parameter's shape.
        x = torch.tensor(x if key == "step" else [x], dtype=torch.float64)
        optimizer.state[p][key] = x
    optimizer.step()
    return p.item(), {key: x.item() for key, x in optimizer.state[p].items()}


SGD = {"momentum": 0.9, "weight_decay": 0.01}
ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}


def sgd_row(p, g, buf, lr, clip):
    after, state = one_step(torch.optim.SGD, p, g * clip, {"momentum_buffer": buf}, lr=lr, **SGD)
    args = [p, g, buf, lr, clip]
    return {"args": args, "value": [after, state["momentum_buffer"]], "gradient": None}


def advance_row(steps, skipped, clip, logs):
    """A factor of 0 skips the step; the corrections are those of Adam with betas exp(log)."""
    taken = 1.0 if clip > 0 else 0.0
    after = torch.tensor([steps + taken, skipped + 1.0 - taken], dtype=torch.float64)
    betas = torch.exp(torch.tensor(list(logs.values()), dtype=torch.float64))
    corrections = 1 / (1 - betas ** max(steps + taken, 1.0))
    args = [steps, skipped, clip]
    return {"args": args, "value": [*after.tolist(), *corrections.tolist()], "gradient": None}


def adam_row(optimizer_class, t, p, g, m, v, lr, clip):
    """Step `t` of Adam or AdamW.

    The row's corrections are 1 / (1 - beta^t) rounded to float32, while torch has them in float64.
    Scaling lr and eps by the ratios makes torch compute exactly what the row's arguments say:
    lr * c1 * m / (sqrt(c2 * v) + eps).
    """
    exact1, exact2 = 1 / (1 - ADAM["beta1"] ** t), 1 / (1 - ADAM["beta2"] ** t)
    c1, c2 = f32(exact1), f32(exact2)
    eps_ratio = math.sqrt(exact2 / c2)
    lr_ratio = c1 / exact1 * eps_ratio
    assert abs(lr_ratio - 1) < 2e-7 and abs(eps_ratio - 1) < 2e-7
    decay = ADAM["weight_decay"]
    if optimizer_class is torch.optim.AdamW:
        decay /= lr_ratio  # AdamW multiplies it by lr
    after, state = one_step(
        optimizer_class,
        p,
        g * clip,
        {"step": float(t - 1), "exp_avg": m, "exp_avg_sq": v},
        lr=lr * lr_ratio,
        betas=(ADAM["beta1"], ADAM["beta2"]),
        eps=ADAM["eps"] * eps_ratio,
        weight_decay=decay,
    )
    assert state["step"] == t
    args = [p, g, m, v, lr, clip, c1, c2]
    return {
        "args": args,
        "value": [after, state["exp_avg"], state["exp_avg_sq"]],
        "gradient": None,
    }


# (learning rate, clip factor, size of the gradients, zero gradient at these steps)
RUNS = [
    (1e-3, 1.0, 1.0, ()),
    (0.1, 0.25, 100.0, (3,)),
    (0.02, 1.0, 1e-6, (2, 5)),
    (1.0, 1e-4, 1e4, ()),
]
STEPS = 7


def trajectories(name, states, step):
    """Rows of short runs from a zero state; each step starts from the last one's rounded result."""
    draw, rows = random.Random(name), []
    for lr, clip, size, zeros in RUNS:
        p, state = f32(draw.uniform(-2, 2)), [0.0] * states
        for t in range(1, STEPS + 1):
            g = 0.0 if t in zeros else f32(draw.uniform(-size, size))
            row = step(t, p, g, *state, f32(lr), f32(clip))
            rows.append(row)
            p, *state = (f32(x) for x in row["value"])
    return rows


def updates():
    """name -> (tensors, scalars, rows)"""
    special = [(0.0, 0.0, 0.0), (1, 0.0, 1e-30), (-1e4, 1e4, -100), (100, 1e-30, 1e4)]
    rows = trajectories("sgd", 1, lambda t, p, g, buf, lr, clip: sgd_row(p, g, buf, lr, clip))
    rows += [sgd_row(*(f32(x) for x in s), f32(0.1), 1.0) for s in special]
    table = {"sgd": (["p", "g", "buf", "lr", "clip"], SGD, rows)}

    logs = {"log_beta1": -0.125, "log_beta2": -0.0078125}
    counted = [
        (0, 0, 1), (1, 0, 0.5), (0, 0, 0), (0, 3, 0), (7, 1, 0), (1000, 2, 1e-30), (1e6, 0, 1),
        (2, 0, 1), (3, 1, 0.25), (15, 2, 0), (127, 0, 2), (4095, 31, 1), (65536, 1, 1e4), (99, 0, 1),
    ]  # fmt: skip
    rows = [advance_row(*(f32(x) for x in s), logs) for s in counted]
    table["advance"] = (["steps", "skipped", "clip"], logs, rows)

    # (t, p, g, m, v): nothing at all, a vanishing second moment, late steps, large numbers.
    special = [
        (1, 0.0, 0.0, 0.0, 0.0), (2, 1, 0.0, 1e-30, 0.0), (5, 1, 1e-30, 1e-30, 1e-30),
        (100, -1.5, 0.75, 0.5, 0.25), (10_000, 0.5, -2, 0.125, 3), (1_000_000, 2, 1, -1, 0.5),
        (50, 100, -100, 1e4, 1e8), (50, -1e4, 1e4, 1, 1e-4),
    ]  # fmt: skip
    names = ["p", "g", "m", "v", "lr", "clip", "correction1", "correction2"]
    for name, optimizer_class in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):

        def step(t, *args, optimizer_class=optimizer_class):
            return adam_row(optimizer_class, t, *args)

        rows = trajectories(name, 2, step)
        rows += [step(t, *(f32(x) for x in s), f32(0.01), 1.0) for t, *s in special]
        table[name] = (names, ADAM, rows)
    return table


# Output ------------------------------------------------------------------------------------------


def plain(x):
    """Numbers as JSON has them; Python prints enough digits to read the same float64 back."""
    if isinstance(x, dict):
        return {key: plain(y) for key, y in x.items()}
    if isinstance(x, list):
        return [plain(y) for y in x]
    if isinstance(x, float) and not math.isfinite(x):
        return "nan" if math.isnan(x) else "inf" if x > 0 else "-inf"
    return x


def write(path, definitions):
    """One row per line, so that a difference between two versions can be read."""
    blocks = []
    for name, (tensors, scalars, rows) in definitions.items():
        lines = ",\n".join("   " + json.dumps(plain(row), allow_nan=False) for row in rows)
        blocks.append(
            f'  {json.dumps(name)}: {{"tensors": {json.dumps(tensors)}, '
            f'"scalars": {json.dumps(scalars)}, "rows": [\n{lines}\n  ]}}'
        )
    text = f'{{"torch": "{torch.__version__.split("+")[0]}",\n "definitions": {{\n'
    path.write_text(text + ",\n".join(blocks) + "\n}}\n", encoding="utf-8")


def main():
    definitions = {
        name: (tensors, scalars, [evaluate(f, row, scalars, smooth) for row in rows])
        for name, (f, tensors, scalars, rows, smooth) in functions().items()
    }
    definitions.update(updates())
    for _, _, rows in definitions.values():
        assert all(f32(x) == x or math.isnan(x) for row in rows for x in row["args"])
    write(Path(__file__).with_name("elementwise.json"), definitions)


if __name__ == "__main__":
    main()
