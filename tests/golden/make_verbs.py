"""Writes verbs.json: small cases of the engine's verbs with their gradients, by PyTorch in float64.

Every input is a multiple of 1/256, so it is exact in float32 and short in the file. A case reads

    outputs = op(inputs, attrs),   gradients = d sum(upstream * outputs) / d inputs

where an array is {"shape": [...], "data": [...]} in row-major order.
"""

import json
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F

from make_elementwise import f32, plain

CASES = []


def tensor(draw, *shape, low=-2.0, high=2.0):
    data = [round(draw.uniform(low, high) * 256) / 256 for _ in range(math.prod(shape))]
    return torch.tensor(data, dtype=torch.float64).reshape(shape)


def add(op, attrs, inputs, forward, gradients=(), upstream=None, seed=""):
    """Runs one case and keeps it.

    `forward` maps the inputs to the outputs by name; its first output takes the upstream gradient,
    which is drawn at random unless it is given.
    """
    draw = random.Random(f"{op} {attrs} {seed} upstream")
    leaves = {
        name: x.clone().requires_grad_() if name in gradients else x for name, x in inputs.items()
    }
    outputs = forward(**leaves)
    case = {"op": op, "attrs": attrs, "inputs": inputs, "outputs": outputs}
    if gradients:
        name, first = next(iter(outputs.items()))
        g = tensor(draw, *first.shape) if upstream is None else torch.tensor(upstream).double()
        found = torch.autograd.grad(first, [leaves[n] for n in gradients], g)
        case |= {"upstream": {name: g}, "gradients": dict(zip(gradients, found))}
    else:
        case |= {"upstream": {}, "gradients": {}}
    CASES.append(case)


# gemm: out = alpha * op(a) op(b) + beta * c, a batch of them -------------------------------------


def gemms():
    for layout, (batch, m, n, k), alpha, beta in [
        ("nn", (2, 3, 5, 4), 1.0, 0.0),
        ("nt", (2, 3, 5, 4), 1.0, 0.0),
        ("tn", (2, 3, 5, 4), 0.5, 0.0),
        ("tt", (2, 3, 5, 4), 1.0, 1.0),
        ("nn", (1, 7, 9, 17), 1.0, 0.0),
        ("nt", (1, 1, 18, 13), -2.0, 0.5),
        ("tn", (1, 17, 1, 6), 1.0, 1.0),
        ("tt", (1, 5, 6, 1), 0.25, -1.0),
    ]:
        draw = random.Random(f"gemm {layout} {batch} {m} {n} {k}")
        inputs = {
            "a": tensor(draw, batch, *((m, k) if layout[0] == "n" else (k, m))),
            "b": tensor(draw, batch, *((k, n) if layout[1] == "n" else (n, k))),
        }
        if beta != 0.0:
            inputs["c"] = tensor(draw, batch, m, n)

        def forward(a, b, c=0.0, layout=layout, alpha=alpha, beta=beta):
            a = a if layout[0] == "n" else a.mT
            b = b if layout[1] == "n" else b.mT
            return {"out": alpha * (a @ b) + beta * c}

        attrs = {"layout": layout, "batch": batch, "m": m, "n": n, "k": k}
        attrs |= {"alpha": alpha, "beta": beta}
        add("gemm", attrs, inputs, forward, gradients=tuple(inputs))


# attention ---------------------------------------------------------------------------------------


def sequences(batch, q_len, kv_len, lengths, query_starts, key_starts):
    """For each batch element and query: where it stands among the keys, and its sequence's keys."""
    for b in range(batch):
        for i in range(q_len):
            if query_starts is not None:
                (q, k) = (query_starts[b].tolist(), key_starts[b].tolist())
                own = [s for s in range(len(q) - 1) if q[s] <= i < q[s + 1]]
                first, end = (k[own[0]], k[own[0] + 1]) if own else (0, 0)
                yield b, i, (i + end - q[own[0] + 1] if own else 0), first, end
            else:
                end = kv_len if lengths is None else int(lengths[b])
                yield b, i, i + end - q_len, 0, end


def attention_options(name, q_len, kv_len, causal=False, window=None, score=None, cap=None, **given):
    """Sight (see contract/src/verb/attention.rs) and score programs, computed pair by pair.

    `given` are inputs: `lengths` [batch] or `query_starts` and `key_starts` [batch, sequences + 1];
    `blocks` with the attributes `rows` and `columns`; `slopes` [1, heads, 1, 1] or `bias`, which a
    score program reads; `mask`, which has a gradient here.
    """
    batch, heads, kv_heads, dim = 2, 4, 2, 4
    size = given.pop("size", None)
    draw = random.Random(f"attention options {name}")
    inputs = {
        "q": tensor(draw, batch, heads, q_len, dim),
        "k": tensor(draw, batch, kv_heads, kv_len, dim),
        "v": tensor(draw, batch, kv_heads, kv_len, dim),
    } | given
    scale = 1 / math.sqrt(dim)
    starts = (given.get(n) for n in ("lengths", "query_starts", "key_starts"))
    spans = list(sequences(batch, q_len, kv_len, *starts))
    seen = torch.zeros(batch, heads, q_len, kv_len, dtype=torch.bool)
    distance = torch.zeros(batch, 1, q_len, kv_len, dtype=torch.float64)
    for b, i, at, first, end in spans:
        for j in range(kv_len):
            distance[b, 0, i, j] = j - at
            inside = first <= j < end
            past = not causal or j <= at
            near = window is None or abs(j - at) < window
            for h in range(heads):
                kept = size is None or given["blocks"][b, h, i // size[0], j // size[1]] != 0
                seen[b, h, i, j] = inside and past and near and bool(kept)

    def forward(q, k, v, mask=None, slopes=None, bias=None, **_):
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        scores = q @ k.mT * scale
        if score == "soft_cap":
            scores = cap * torch.tanh(scores / cap)
        if score == "alibi":
            scores = scores + slopes * distance
        if score == "bias":
            scores = scores + bias
        if mask is not None:
            scores = scores + mask
        # Queries that see nothing yield zeros.
        some = seen.any(-1, keepdim=True)
        hidden = scores.masked_fill(~seen, -math.inf)
        weights = torch.softmax(torch.where(some, hidden, 0.0), dim=-1)
        out = torch.where(some, weights, 0.0) @ v
        log_sum_exp = torch.logsumexp(hidden.detach(), dim=-1)
        return {"out": out, "log_sum_exp": log_sum_exp}

    attrs = {"case": name, "causal": causal, "scale": scale}
    attrs |= {} if window is None else {"window": window}
    attrs |= {} if score is None else {"score": score}
    attrs |= {} if cap is None else {"cap": cap}
    attrs |= {} if size is None else {"block_rows": size[0], "block_columns": size[1]}
    trained = [n for n in ("mask", "slopes", "bias") if n in given]
    add("attention", attrs, inputs, forward, gradients=("q", "k", "v", *trained))


def attention_case(name, batch, heads, kv_heads, q_len, kv_len, dim, causal=False, **masks):
    """q is [batch, heads, q_len, dim]; k and v are [batch, kv_heads, kv_len, dim].

    Query head h reads key head h / (heads / kv_heads). With `causal`, query i sees the keys
    0..=i + kv_len - q_len. `mask` is added to the scaled scores and broadcasts to
    [batch, heads, q_len, kv_len]; `padding` is [batch, kv_len], 1 for a key that exists and 0 for
    one that does not. `log_sum_exp` is of the scores after scale and masks, natural logarithm.
    """
    draw = random.Random(f"attention {name}")
    inputs = {
        "q": tensor(draw, batch, heads, q_len, dim),
        "k": tensor(draw, batch, kv_heads, kv_len, dim),
        "v": tensor(draw, batch, kv_heads, kv_len, dim),
    } | masks
    scale = 1 / math.sqrt(dim)

    def forward(q, k, v, mask=None, padding=None):
        allowed = torch.ones(batch, 1, q_len, kv_len, dtype=torch.bool)
        if causal:
            allowed = allowed.tril(kv_len - q_len)
        if padding is not None:
            allowed = allowed & (padding != 0)[:, None, None, :]
        bias = torch.zeros(allowed.shape, dtype=torch.float64)
        bias = bias.masked_fill(~allowed, -math.inf)
        if mask is not None:
            bias = bias + mask
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, scale=scale, enable_gqa=kv_heads != heads
        )
        shared = k.repeat_interleave(heads // kv_heads, dim=1)
        log_sum_exp = torch.logsumexp(q @ shared.mT * scale + bias, dim=-1)
        return {"out": out, "log_sum_exp": log_sum_exp}

    attrs = {"case": name, "batch": batch, "heads": heads, "kv_heads": kv_heads, "q_len": q_len}
    attrs |= {"kv_len": kv_len, "dim": dim, "causal": causal, "scale": scale}
    add("attention", attrs, inputs, forward, gradients=("q", "k", "v"))


def attentions():
    draw = random.Random("masks")
    padding = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).double()
    bias = tensor(draw, 1, 2, 5, 5)
    blocked = tensor(draw, 2, 1, 3, 6)
    blocked[0, 0, 1, 2:4] = -math.inf
    attention_case("plain", 2, 2, 2, 5, 5, 4)
    attention_case("causal", 2, 2, 2, 5, 5, 4, causal=True)
    attention_case("additive mask", 2, 2, 2, 5, 5, 4, mask=bias)
    attention_case("additive mask with -inf", 2, 2, 2, 3, 6, 4, mask=blocked)
    attention_case("padding", 2, 2, 2, 5, 5, 4, padding=padding)
    attention_case("causal and padding", 2, 2, 2, 5, 5, 4, causal=True, padding=padding)
    attention_case("grouped query", 1, 4, 2, 4, 4, 8, causal=True)
    attention_case("one key head", 2, 3, 1, 3, 5, 4)
    attention_case("shorter query", 1, 2, 2, 3, 7, 4)
    attention_case("longer query", 1, 2, 2, 6, 2, 4)
    attention_case("causal, shorter query", 1, 2, 2, 3, 7, 4, causal=True)
    attention_case("decode", 1, 4, 2, 1, 9, 4, causal=True)
    both = {"padding": padding, "mask": blocked[..., :5]}
    attention_case("everything", 2, 4, 2, 3, 5, 8, causal=True, **both)

    lengths = {"lengths": torch.tensor([3, 6])}
    starts = {
        "query_starts": torch.tensor([[0, 2, 2, 5], [0, 1, 4, 4]]),
        "key_starts": torch.tensor([[0, 3, 3, 6], [0, 1, 6, 6]]),
    }
    slopes, bias = tensor(draw, 1, 4, 1, 1), tensor(draw, 2, 1, 5, 6)
    blocks = torch.tensor([1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1] * 4).reshape(2, 4, 3, 2)
    attention_options("mask with a gradient", 5, 6, mask=bias)
    attention_options("window", 5, 6, window=2)
    attention_options("causal window", 5, 6, causal=True, window=3)
    attention_options("key lengths", 5, 6, **lengths)
    attention_options("decode by key lengths", 2, 6, causal=True, **lengths)
    attention_options("packed", 5, 6, **starts)
    attention_options("packed, causal, window", 5, 6, causal=True, window=2, **starts)
    attention_options("blocks", 5, 6, blocks=blocks, size=(2, 3))
    attention_options("soft cap", 5, 6, score="soft_cap", cap=0.75)
    attention_options("slopes by distance", 5, 6, causal=True, score="alibi", slopes=slopes)
    attention_options("slopes, packed", 5, 6, score="alibi", slopes=slopes, **starts)
    attention_options("additive bias", 5, 6, score="bias", bias=bias)
    attention_options("bias and mask", 5, 6, score="bias", bias=bias, mask=tensor(draw, 1, 4, 1, 6))


# Rows --------------------------------------------------------------------------------------------


def rows():
    eps = f32(1e-5)
    for op, f in (("softmax", F.softmax), ("log_softmax", F.log_softmax)):
        forward = lambda x, f=f: {"out": f(x, dim=-1)}  # noqa: E731
        for shape in [(2, 3, 5), (2, 33), (3, 1)]:
            x = tensor(random.Random(f"{op} {shape}"), *shape, low=-4, high=4)
            add(op, {}, {"x": x}, forward, gradients=("x",), seed=shape)
        large = torch.tensor([[1e4, 9999, 0, -1e4], [100, -100, 100, 99.5]]).double()
        add(op, {"case": "large"}, {"x": large}, forward, gradients=("x",))
        if op == "softmax":
            blocked = torch.tensor([[0.5, -math.inf, 1.5], [-math.inf, -math.inf, 2]]).double()
            add(op, {"case": "-inf"}, {"x": blocked}, forward, gradients=("x",))

    for shape in [(2, 3, 8), (2, 33)]:
        draw = random.Random(f"norms {shape}")
        width = shape[-1:]
        x = tensor(draw, *shape) + 0.5
        weight, bias = tensor(draw, *width), tensor(draw, *width)
        add(
            "layer_norm",
            {"eps": eps},
            {"x": x, "weight": weight, "bias": bias},
            lambda x, weight, bias: {"out": F.layer_norm(x, weight.shape, weight, bias, eps)},
            gradients=("x", "weight", "bias"),
            seed=shape,
        )
        add(
            "rms_norm",
            {"eps": eps},
            {"x": x, "weight": weight},
            lambda x, weight: {"out": F.rms_norm(x, weight.shape, weight, eps)},
            gradients=("x", "weight"),
            seed=shape,
        )

    # The mean over the rows whose target is not -100.
    for targets, classes, upstream in [
        ([0, 4, 2, 1], 5, 1.0),
        ([3, -100, 0, -100, 6, 6], 7, 1.0),
        ([32, -100, 17], 33, 0.5),
    ]:
        draw = random.Random(f"cross_entropy {targets}")
        logits = tensor(draw, len(targets), classes, low=-4, high=4)
        add(
            "cross_entropy",
            {"ignore_index": -100},
            {"logits": logits, "targets": torch.tensor(targets)},
            lambda logits, targets: {
                "loss": F.cross_entropy(logits, targets, ignore_index=-100),
                "log_sum_exp": torch.logsumexp(logits, dim=-1),
            },
            gradients=("logits",),
            upstream=upstream,
        )


# Reductions --------------------------------------------------------------------------------------


REDUCTIONS = {
    "sum": lambda x, axes: x.sum(axes),
    "mean": lambda x, axes: x.mean(axes),
    "max": lambda x, axes: x.amax(axes),  # ties share the gradient evenly
    "min": lambda x, axes: x.amin(axes),
    "var": lambda x, axes: x.var(axes, correction=0),
    "unbiased var": lambda x, axes: x.var(axes, correction=1),
}


def reductions():
    draw = random.Random("reductions")
    cube, wide = tensor(draw, 2, 3, 4), tensor(draw, 2, 37)
    # Ties for the largest and the smallest, along an axis and in all.
    cube[0, 0, 1] = cube[0, 0, 3] = cube[1, 0, 3] = 2.5
    cube[0, 2, 0] = cube[0, 1, 0] = cube[1, 2, 2] = -2.5
    wide[1, 5] = wide[1, 36] = 3
    for kind, f in REDUCTIONS.items():
        for x, axes in [
            (cube, [0]),
            (cube, [1]),
            (cube, [2]),
            (cube, [0, 2]),
            (cube, [1, 2]),
            (cube, [0, 1, 2]),
            (wide, [1]),
        ]:
            attrs = {"kind": kind.split()[-1], "axes": axes}
            if kind.endswith("var"):
                attrs["unbiased"] = int(kind.startswith("unbiased"))
            forward = lambda x, f=f, axes=axes: {"out": f(x, axes)}  # noqa: E731
            add("reduce", attrs, {"x": x}, forward, gradients=("x",), seed=tuple(x.shape))
    # The first of equal ones.
    for x, axis in [(cube, 0), (cube, 1), (cube, 2), (wide, 1)]:
        forward = lambda x, axis=axis: {"out": x.argmax(axis)}  # noqa: E731
        add("reduce", {"kind": "argmax", "axes": [axis]}, {"x": x}, forward)


# Rows by number ----------------------------------------------------------------------------------


def gathers():
    draw = random.Random("gather")
    ids = torch.tensor([[2, 0, 2], [6, 2, 5]])
    table, start, rows = tensor(draw, 7, 4), tensor(draw, 7, 4), tensor(draw, 2, 3, 4)
    add(
        "gather",
        {},
        {"table": table, "ids": ids},
        lambda table, ids: {"out": F.embedding(ids, table)},
        gradients=("table",),
    )
    add(
        "scatter_add",
        {},
        {"table": start, "ids": ids, "rows": rows},
        lambda table, ids, rows: {
            "out": table.index_add(0, ids.flatten(), rows.flatten(0, 1)),
        },
        gradients=("table", "rows"),
    )


# Output ------------------------------------------------------------------------------------------


def array(x):
    data = x.flatten().tolist()
    return json.dumps(plain({"shape": list(x.shape), "data": data}), allow_nan=False)


def case_text(case):
    """One array per line."""
    parts = [f'"op": {json.dumps(case["op"])}, "attrs": {json.dumps(case["attrs"])}']
    for group in ("inputs", "outputs", "upstream", "gradients"):
        lines = ",\n".join(f"    {json.dumps(n)}: {array(x)}" for n, x in case[group].items())
        parts.append(f'"{group}": {{\n{lines}\n   }}' if lines else f'"{group}": {{}}')
    return "  {" + ",\n   ".join(parts) + "}"


def main():
    for section in (gemms, attentions, rows, reductions, gathers):
        section()
    for case in CASES:
        for x in (*case["inputs"].values(), *case["upstream"].values()):
            assert all(f32(y) == y for y in x.flatten().tolist())
    version = torch.__version__.split("+")[0]
    text = f'{{"torch": "{version}",\n "cases": [\n' + ",\n".join(map(case_text, CASES)) + "\n]}\n"
    Path(__file__).with_name("verbs.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
