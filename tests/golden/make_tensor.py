"""Writes tensor.json: every method of the engine's Tensor, its value and gradients, by PyTorch.

A line is a graph as graphs.py describes it, with the method that it is a case of, PyTorch's name
for it, and what is special about the case. Add a method to OPS in graphs.py and its cases here.
"""

import random
from pathlib import Path

import torch

from graphs import ACTIONS, OPS, finish, line, short, tensor
from make_elementwise import functions as elementwise

NARROW = ("bf16", "f16")
CASES, NAN, INF = [], float("nan"), float("inf")


def case(method, title, inputs, options=None, steps=None, outputs=None, special=False):
    """One call of `method` on all inputs, or `steps`; compared is what no other step reads."""
    steps = steps or [[method, list(range(len(inputs)))] + ([options] if options else [])]
    if outputs is None:
        used = {i for name, nodes, *_ in steps for i in nodes if name not in ACTIONS}
        nodes = len(inputs) + sum(results(step) for step in steps)
        outputs = [i for i in range(len(inputs), nodes) if i not in used]
    graph = {"inputs": inputs, "steps": steps, "outputs": outputs}
    if special:
        graph["special"] = True
    golden = finish(graph)
    golden.pop("special", None)
    torch_name = OPS[method][2] if method in OPS else None
    CASES.append({"method": method, "torch": torch_name or method, "title": title} | golden)


def results(step):
    """How many nodes a step adds, for those that need no look at shapes."""
    return int(step[0] == "grad") if step[0] in ACTIONS else 1


def drawn(title):
    draw = random.Random(title)
    return lambda *shape, **options: tensor(draw, *shape, **options)


def given(dtype, shape, *data, grad=False):
    x = {"dtype": dtype, "shape": shape, "data": list(data)}
    return x | ({"grad": True} if grad else {})


# Elementwise -------------------------------------------------------------------------------------


LOW = {"sqrt": 0.25, "rsqrt": 0.25, "log": 0.25, "log1p": -0.5, "pow": 0.25, "reciprocal": 0.5}


def elementwises():
    for name, (_, tensors, scalars, _, smooth) in elementwise().items():
        if name == "dropout":
            continue
        t, n, values = drawn(name), len(tensors), list(scalars.values())
        options = {"values": values} if values else None
        low = {"low": LOW[name]} if name in LOW else {}
        second = {"low": 0.5} if name == "div" else {}
        masks = lambda *shape, i=0, **o: (  # noqa: E731
            given("u8", list(shape), *[j * 5 % 7 % 2 for j in range(torch.Size(shape).numel())])
            if name == "select" and i == 0
            else t(*shape, **(o | (low if i == 0 else second)))
        )
        several = [masks(*s, i=i, grad=smooth) for i, s in enumerate([(2, 3), (3,), (2, 1)][:n])]
        case(name, "broadcast" if n > 1 else "plain", several, options)
        steps = [["transpose", [0], {"a": 0, "b": -1}]]
        steps += [[name, [n, *range(1, n)]] + ([options] if options else [])]
        shapes = [(3, 2), (2, 3), (1, 3)][:n]
        turned = [masks(*s, i=i, grad=smooth) for i, s in enumerate(shapes)]
        case(name, "transposed view", turned, steps=steps)
        if n <= 2:
            for dtype in ("bf16", "f16"):
                narrow = [masks(4, i=i, dtype=dtype, grad=smooth, scale=4) for i in range(n)]
                case(name, dtype, narrow, options)
    for name in ("add", "mul", "maximum", "neg", "gelu"):
        t = drawn(f"{name} empty")
        case(name, "no element", [t(0, 3), t(3)][: len(elementwise()[name][1])])
    ties = [given("f32", [4], 1, 2, -1, 0, grad=True), given("f32", [4], 1, 3, -1, 0, grad=True)]
    for name in ("maximum", "minimum", "absolute_error"):
        case(name, "ties", ties)
    kinks = given("f32", [7], -2, -1, -0.5, 0, 0.5, 1, 2, grad=True)
    for name in ("relu", "abs", "floor", "leaky_relu", "hardswish"):
        case(name, "kinks", [kinks], {"values": [0.01]} if name == "leaky_relu" else None)
    case("clamp", "bounds", [kinks], {"values": [-1, 1]})
    case("mul", "by itself", [drawn("self")(3)], steps=[["mul", [0, 0]], ["add", [1, 0]]])
    for name, value in [("add", 1.5), ("sub", -0.75), ("mul", -2.5), ("div", 4), ("pow", 2)]:
        t = drawn(f"{name}_scalar")
        case(f"{name}_scalar", "plain", [t(2, 3)], {"value": value})
        case(f"{name}_scalar", "rank 0", [t()], {"value": value})
        steps = [["transpose", [0], {"a": 0, "b": 1}], [f"{name}_scalar", [1], {"value": value}]]
        case(f"{name}_scalar", "transposed view", [t(2, 3)], steps=steps)
        case(f"{name}_scalar", "bf16", [t(5, dtype="bf16", scale=4)], {"value": value})
    mask = given("u8", [2, 3], 1, 0, 0, 1, 1, 0)
    for value in (3, "-inf"):
        t, special = drawn("masked_fill"), value == "-inf"
        steps = [["masked_fill", [0, 1], {"value": -INF if special else value}]]
        steps += [["softmax", [2], {"axis": -1}]] if special else []
        case("masked_fill", f"with {value}", [t(2, 3), mask], steps=steps, special=special)
    row = given("u8", [3], 1, 0, 0)
    case("masked_fill", "mask broadcasts", [drawn("masked row")(2, 3), row], {"value": -1})


# Reductions --------------------------------------------------------------------------------------


def reductions():
    ties = given("f32", [3, 4], 2, 1, 2, 2, -1, -1, 0, -1, 3, 0.5, -2, 3, grad=True)
    for name in ("sum", "mean", "max", "min", "var"):
        t, extra = drawn(name), {"correction": 1} if name == "var" else {}
        for axes, keep in [([0], False), ([-1], True), ([1], False), ([0, 2], False), ([-1, 0, 1], True)]:
            case(name, f"axes {axes}", [t(3, 4, 2)], {"axes": axes, "keep": keep} | extra)
        case(name, "ties", [ties], {"axes": [1], "keep": False} | extra)
        case(name, "ties over both axes", [ties], {"axes": [0, 1], "keep": False} | extra)
        options = {"axes": [0], "keep": False} | extra
        steps = [["slice", [0], {"axis": 1, "start": 3, "len": 2, "step": -2}], [name, [1], options]]
        case(name, "view with a negative step", [t(3, 4)], steps=steps)
        steps = [["broadcast_to", [0], {"shape": [3, 4]}], [name, [1], options]]
        case(name, "repeated row", [t(4)], steps=steps)
        steps = [["sqr", [0]], [name, [1], options], ["exp", [2]]]
        case(name, "of an expression", [t(3, 2, reach=2)], steps=steps)
        case(name, "one element", [t(1, 1)], {"axes": [0], "keep": False} | extra | ({"correction": 0} if extra else {}))
        case(name, "37 columns", [t(2, 37)], {"axes": [1], "keep": False} | extra)
        if name != "var":
            case(name, "no axis", [t(2, 2)], {"axes": [], "keep": False})
        for dtype in NARROW:
            case(name, dtype, [t(2, 5, dtype=dtype, scale=4)], {"axes": [1], "keep": False} | extra)
    case("var", "correction 0", [drawn("var 0")(3, 4)], {"axes": [1], "correction": 0, "keep": True})
    case("sum", "no element", [drawn("sum 0")(0, 3)], {"axes": [0], "keep": False})
    case("sum", "no row", [drawn("sum 1")(0, 3)], {"axes": [1], "keep": False})
    case("max", "NaN", [given("f32", [2, 2], 1, NAN, 2, 3)], {"axes": [1], "keep": False}, special=True)
    case("max", "infinities", [given("f32", [2, 2], -INF, -INF, INF, 3)], {"axes": [1], "keep": False}, special=True)
    for name in ("argmax", "argmin"):
        x, t = ties | {"grad": False}, drawn(name)
        for axis, keep in [(0, False), (1, True), (-1, False)]:
            case(name, f"axis {axis}, the first of ties", [x], {"axis": axis, "keep": keep})
        steps = [["transpose", [0], {"a": 0, "b": 1}], [name, [1], {"axis": 0, "keep": False}]]
        case(name, "transposed view", [t(3, 5, grad=False)], steps=steps)
    for name in ("sum_all", "mean_all"):
        t = drawn(name)
        case(name, "plain", [t(2, 3, 2)])
        case(name, "rank 0", [t()])
        case(name, "transposed view", [t(2, 3)], steps=[["transpose", [0], {"a": 0, "b": 1}], [name, [1]]])
        for dtype in NARROW:
            case(name, dtype, [t(9, dtype=dtype, scale=4)])
    case("sum_all", "no element", [drawn("sum_all 0")(2, 0)])


# Views -------------------------------------------------------------------------------------------


def views():
    t = drawn("views")

    def twice(method, shape, options, before=(), title="plain", **kind):
        """The view, and an expression over it, so that the gradient comes from two readers."""
        n = len(before)
        steps = [*before, [method, [n]] + ([options] if options else []), ["sqr", [n + 1]]]
        case(method, title, [t(*shape, **kind)], steps=steps, outputs=[n + 1, n + 2])

    turn = [["transpose", [0], {"a": 0, "b": 1}]]
    wide = [["broadcast_to", [0], {"shape": [2, 3, 4]}]]
    lazy = [["neg", [0]]]
    for method, shape, options, source in [
        ("reshape", (2, 6), {"shape": [3, 4]}, (4, 3)),
        ("permute", (2, 3, 4), {"axes": [2, 0, 1]}, (2, 3, 2)),
        ("transpose", (2, 3, 2), {"a": -1, "b": 0}, (2, 2, 3)),
        ("narrow", (4, 3), {"axis": 0, "start": 1, "len": 2}, (3, 4)),
        ("slice", (5, 3), {"axis": 0, "start": 4, "len": 2, "step": -2}, (3, 5)),
        ("broadcast_to", (3, 1), {"shape": [2, 3, 4]}, (1, 3)),
        ("unsqueeze", (2, 3), {"axis": 1}, (2, 3)),
        ("squeeze", (2, 1, 3), {"axis": 1}, (1, 2, 3)),
        ("flatten", (2, 3), None, (2, 3)),
        ("contiguous", (2, 3), None, (2, 3)),
        ("to_dtype", (2, 3), {"dtype": "bf16"}, (2, 3)),
    ]:
        twice(method, shape, options)
        twice(method, source, options, before=turn, title="of a transposed view")
        twice(method, shape, options, before=lazy, title="of an expression")
        if method != "to_dtype":
            twice(method, shape, options, title="bf16", dtype="bf16", scale=4)
    twice("permute", (4,), {"axes": [2, 0, 1]}, before=wide, title="of a repeated row")
    twice("reshape", (4,), {"shape": [6, 4]}, before=wide, title="of a repeated row")
    twice("contiguous", (4,), None, before=wide, title="of a repeated row")
    twice("narrow", (4, 3), {"axis": 1, "start": 3, "len": 0}, title="nothing")
    twice("slice", (7,), {"axis": 0, "start": 1, "len": 3, "step": 2}, title="every second")
    twice("slice", (7,), {"axis": 0, "start": 6, "len": 7, "step": -1}, title="backwards")
    twice("reshape", (0, 3), {"shape": [3, 0, 2]}, title="no element")
    twice("reshape", (1, 1), {"shape": []}, title="to rank 0")
    twice("to_dtype", (5,), {"dtype": "f32"}, title="bf16 to f32", dtype="bf16", scale=4)
    twice("to_dtype", (5,), {"dtype": "f16"}, title="bf16 to f16", dtype="bf16", scale=4)
    twice("to_dtype", (5,), {"dtype": "f32"}, title="itself")
    x = given("f32", [6], -2.75, -1.5, -0.25, 0.5, 1.75, 100.5)
    case("to_dtype", "towards zero", [x], {"dtype": "i32"})
    case("to_dtype", "i8", [x], {"dtype": "i8"})
    case("to_dtype", "u8 to f32", [given("u8", [3], 0, 7, 255)], {"dtype": "f32"})
    case("to_dtype", "i32 to bf16", [given("i32", [3], 0, -7, 255)], {"dtype": "bf16"})
    # A slice of a slice, and slices that overlap: their gradients add up.
    steps = [["narrow", [0], {"axis": 0, "start": 0, "len": 3}], ["narrow", [0], {"axis": 0, "start": 1, "len": 3}]]
    case("narrow", "overlapping", [t(4, 2)], steps=steps + [["mul", [1, 2]]], outputs=[2, 3])

    for method, axis in [("cat", 1), ("cat", 0), ("stack", 0), ("stack", 2)]:
        other = (2, 3) if method == "stack" else (2, 1) if axis == 1 else (1, 3)
        steps = [[method, [0, 1, 0], {"axis": axis}], ["sqr", [2]]]
        case(method, f"axis {axis}, one part twice", [t(2, 3), t(*other)], steps=steps)
        steps = [["transpose", [0], {"a": 0, "b": 1}], [method, [2, 1], {"axis": axis}]]
        case(method, f"axis {axis}, a transposed part", [t(3, 2), t(*other)], steps=steps)
    case("cat", "an empty part", [t(2, 0), t(2, 2)], {"axis": 1})
    case("cat", "bf16", [t(2, dtype="bf16", scale=4), t(1, dtype="bf16", scale=4)], {"axis": 0})
    for dtype in ("i32", "u8"):
        case("cat", dtype, [given(dtype, [2], 1, 2), given(dtype, [1], 3)], {"axis": 0})


# Rows --------------------------------------------------------------------------------------------


def rows():
    for name in ("softmax", "log_softmax"):
        t = drawn(name)
        for axis in (-1, 0, 1):
            case(name, f"axis {axis}", [t(2, 3, 4)], {"axis": axis})
        case(name, "one column", [t(3, 1)], {"axis": 1})
        case(name, "33 columns", [t(2, 33)], {"axis": -1})
        large = given("f32", [2, 4], 10000, 9999, 0, -10000, 100, -100, 100, 99.5, grad=True)
        case(name, "large", [large], {"axis": -1})
        steps = [["transpose", [0], {"a": 0, "b": 1}], [name, [1], {"axis": -1}]]
        case(name, "transposed view", [t(4, 3)], steps=steps)
        case(name, "of an expression", [t(2, 5)], steps=[["mul_scalar", [0], {"value": 3}], [name, [1], {"axis": 1}]])
        case(name, "no row", [t(0, 3)], {"axis": 1})
    t = drawn("norms")
    for parts in [["weight", "bias"], ["weight"], ["bias"], []]:
        options = {"eps": 1e-5} | ({"given": parts} if parts else {})
        inputs = [t(2, 3, 8), *(t(8) for _ in parts)]
        case("layer_norm", f"with {parts}", inputs, options)
        if parts in (["weight"], []):
            case("rms_norm", f"with {parts}", inputs, options)
    for name in ("layer_norm", "rms_norm"):
        steps = [["transpose", [0], {"a": 0, "b": 1}], [name, [1], {"eps": 1e-5}]]
        case(name, "transposed view", [t(6, 3)], steps=steps)
        case(name, "37 columns", [t(2, 37), t(37)], {"eps": 1e-5, "given": ["weight"]})
        frozen = [t(2, 8, grad=False), t(8)]
        case(name, "only the weight is trained", frozen, {"eps": 1e-5, "given": ["weight"]})
    plain = given("i32", [4], 0, 4, 2, 1)
    some = given("i32", [6], 3, -100, 0, -100, 4, 4)
    for name in ("cross_entropy_rows", "cross_entropy"):
        t = drawn(name)
        case(name, "plain", [t(4, 5), plain])
        case(name, "u32 targets", [t(2, 5), given("u32", [2], 4, 0)])
        case(name, "ignored rows", [t(6, 5), some], {"ignore_index": -100})
        case(name, "an ignored class", [t(4, 5), plain], {"ignore_index": 2})
        none = given("i32", [2], -100, -100)
        case(name, "all rows ignored", [t(2, 3), none], {"ignore_index": -100}, special=True)
        case(name, "two axes of rows", [t(2, 3, 5), given("i32", [2, 3], 3, -1, 0, -1, 4, 4)], {"ignore_index": -1})
        steps = [["transpose", [0], {"a": 0, "b": 1}], [name, [2, 1]]]
        case(name, "transposed view", [t(5, 4), plain], steps=steps)
        case(name, "33 classes", [t(3, 33), given("i32", [3], 32, 0, 17)])


# Indices, products, attention --------------------------------------------------------------------


def indices():
    t = drawn("indices")
    index = given("i32", [2, 2], 0, 2, 2, 1)
    case("gather", "columns", [t(2, 3), index], {"axis": 1})
    case("gather", "rows", [t(3, 2), index], {"axis": 0})
    steps = [["transpose", [0], {"a": 0, "b": 1}], ["gather", [2, 1], {"axis": 1}]]
    case("gather", "transposed view", [t(3, 2), index], steps=steps)
    case("gather", "an index of one repeated row", [t(4, 3), given("u32", [1, 3], 3, 3, 0)],
         steps=[["broadcast_to", [1], {"shape": [2, 3]}], ["gather", [0, 2], {"axis": 0}]])  # fmt: skip
    case("gather", "bf16", [t(2, 3, dtype="bf16", scale=4, grad=False), index], {"axis": 1})
    ids = given("u32", [2, 3], 1, 3, 1, 0, 1, 2)
    case("embedding", "equal rows", [t(4, 3), ids])
    case("embedding", "of vectors of rank 2", [t(4, 2, 2), given("i32", [2], 3, 3)])
    case("embedding", "rank 0", [t(4, 3), given("i32", [], 2)])
    case("embedding", "no index", [t(4, 3), given("i32", [0])])
    steps = [["transpose", [1], {"a": 0, "b": 1}], ["embedding", [0, 2]]]
    case("embedding", "transposed index", [t(4, 3), ids], steps=steps)
    case("embedding", "transposed table", [t(3, 4), ids],
         steps=[["transpose", [0], {"a": 0, "b": 1}], ["embedding", [2, 1]]])  # fmt: skip
    case("scatter_add", "equal places", [t(3), given("i32", [4], 0, 2, 2, 1), t(4)], {"axis": 0})
    case("scatter_add", "along columns", [t(2, 3), index, t(2, 2)], {"axis": 1})
    case("scatter_add", "only the source is trained", [t(3, grad=False), given("i32", [2], 1, 1), t(2)], {"axis": 0})
    case("gather", "an index that is shorter elsewhere", [t(3, 4), index], {"axis": 1})
    case("gather", "shorter along two axes", [t(3, 2, 3), given("u32", [2, 4, 1], 1, 0, 0, 1, 0, 1, 1, 0)],
         {"axis": 1})  # fmt: skip


def products():
    t = drawn("products")
    for title, a, b in [
        ("plain", (3, 4), (4, 2)), ("batch", (2, 3, 4), (4, 2)), ("left repeats", (1, 3, 4), (2, 4, 2)),
        ("two batch axes", (2, 1, 3, 2), (3, 2, 2)), ("row", (4,), (4, 2)), ("column", (3, 4), (4,)),
        ("dot", (4,), (4,)), ("row and batch", (4,), (2, 4, 3)), ("batch and column", (2, 3, 4), (4,)),
        ("one element", (1, 1), (1, 1)), ("k = 37", (2, 37), (37, 3)), ("no row", (0, 4), (4, 2)),
        ("k = 0", (2, 0), (0, 3)),
    ]:  # fmt: skip
        case("matmul", title, [t(*a), t(*b)])
    turn = [["transpose", [0], {"a": 0, "b": 1}]]
    case("matmul", "transposed left", [t(4, 3), t(4, 2)], steps=turn + [["matmul", [2, 1]]])
    case("matmul", "by itself transposed", [t(3, 3)], steps=turn + [["matmul", [0, 1]]])
    case("matmul", "repeated right", [t(2, 3), t(3, 1)],
         steps=[["broadcast_to", [1], {"shape": [3, 4]}], ["matmul", [0, 2]]])  # fmt: skip
    case("matmul", "of a frozen left", [t(3, 4, grad=False), t(4, 2)])
    for layout in ("in_out", "out_in"):
        w = (4, 3) if layout == "in_out" else (3, 4)
        for activation in (None, "gelu", "relu", "silu"):
            options = {"layout": layout} | ({"activation": activation} if activation else {})
            title = f"{layout}, {activation}"
            case("linear", title, [t(2, 2, 4), t(*w), t(3)], options)
            case("linear", f"{title}, no bias", [t(2, 4), t(*w)], options)
        steps = [["transpose", [0], {"a": 0, "b": 1}], ["linear", [3, 1, 2], {"layout": layout}]]
        case("linear", f"{layout}, transposed operand", [t(4, 2), t(*w), t(3)], steps=steps)
        frozen = [t(2, 4), t(*w, grad=False), t(3, grad=False)]
        case("linear", f"{layout}, a frozen layer", frozen, {"layout": layout})


def attentions():
    t = drawn("attention")
    for title, heads, kv_heads, queries, keys, options in [
        ("plain", 2, 2, 3, 3, {}), ("causal", 2, 2, 4, 4, {"causal": True}), ("scale", 1, 1, 3, 3, {"scale": 0.25}),
        ("grouped heads", 4, 2, 3, 3, {"causal": True}), ("one key head", 3, 1, 2, 5, {}),
        ("causal, more keys", 2, 1, 2, 5, {"causal": True}), ("one query", 2, 2, 1, 6, {"causal": True}),
    ]:  # fmt: skip
        q, kv = (2, heads, queries, 4), (2, kv_heads, keys, 4)
        case("attention", title, [t(*q), t(*kv), t(*kv)], options)
        if queries == keys:
            packed = t(2, queries, (heads + 2 * kv_heads) * 4)
            options = {"heads": heads, "kv_heads": kv_heads} | options
            case("attention_packed", title, [packed], options)
    keep = given("u8", [1, 1, 3, 3], 1, 0, 1, 1, 1, 0, 1, 1, 1)
    qkv = [t(1, 2, 3, 4), t(1, 2, 3, 4), t(1, 2, 3, 4)]
    case("attention", "mask of truth values", [*qkv, keep])
    case("attention", "additive mask", [*qkv, t(1, 2, 3, 3, grad=False)])
    case("attention", "additive mask and causal", [*qkv, t(3, 3, grad=False)], {"causal": True})
    case("attention_packed", "mask", [t(1, 3, 24), keep], {"heads": 2, "kv_heads": 2})
    turned = [["transpose", [i], {"a": 1, "b": 2}] for i in range(3)]
    inputs = [t(1, 3, 2, 4), t(1, 3, 2, 4), t(1, 3, 2, 4)]
    case("attention", "transposed operands", inputs, steps=turned + [["attention", [3, 4, 5]]])


# Making, writing, gradients ----------------------------------------------------------------------


def makers():
    for dtype in ("f32", "bf16", "f16", "i32", "u8"):
        case("full", dtype, [], {"shape": [2, 3], "dtype": dtype, "value": 7})
        case("zeros", dtype, [], {"shape": [3], "dtype": dtype})
        case("ones", dtype, [], {"shape": [], "dtype": dtype})
    case("zeros_like", "plain", [drawn("like")(2, 3)])
    case("arange", "plain", [], {"n": 5})
    for dtype, numbers in [("f32", [0.1875, -3]), ("f16", [0.5, -3]), ("bf16", [0.5, -3]),
                           ("i32", [-70000, 3]), ("u32", [4000000000, 3]), ("u8", [255, 0]), ("i8", [-128, 127])]:  # fmt: skip
        case("from_slice", dtype, [given(dtype, [2, 1], *numbers)], steps=[["contiguous", [0]]], special=True)


def writes():
    t = drawn("writes")
    x = t(2, 2, grad=False)
    # Readers that wait see what was there before; views and later readers see what is there now.
    new = {"data": [5, 6, 7, 8]}
    waiting = [["mul_scalar", [0], {"value": 2}], ["add", [1, 0]], ["transpose", [0], {"a": 0, "b": 1}]]
    steps = waiting + [["copy_from_slice", [0], new], ["sqr", [0]], ["neg", [3]]]
    case("copy_from_slice", "pending readers", [x], steps=steps, outputs=[0, 1, 2, 3, 4, 5])
    part = given("f32", [1, 2], 9, -9)
    steps = waiting + [["slice_assign", [0, 1], {"axis": 0, "start": 1}], ["sqr", [0]]]
    steps = [[n, [i + (i > 0) for i in nodes] if n != "slice_assign" else nodes, *o] for n, nodes, *o in steps]
    case("slice_assign", "pending readers", [x, part], steps=steps, outputs=[0, 2, 3, 4, 5])
    steps = [["slice_assign", [0, 1], {"axis": 1, "start": 2}], ["exp", [0]]]
    case("slice_assign", "columns", [t(2, 4, grad=False), t(2, 1, grad=False)], steps=steps, outputs=[0, 2])
    # The reader's reader waits; a taped reader of an overwritten buffer gives its old gradient.
    steps = [["exp", [1]], ["mul", [0, 2]], ["copy_from_slice", [1], {"data": [0, 0, 0]}], ["sqr", [3]]]
    case("copy_from_slice", "between forward and backward", [t(3), t(3, grad=False, reach=2)], steps=steps)


def gradients():
    t = drawn("gradients")
    x, g = t(3), t(3, grad=False)
    square = [["sqr", [0]], ["sum_all", [2]]]
    once = square + [["backward", [3]], ["grad", [0]]]
    case("backward", "of a sum", [x, g], steps=once, outputs=[4])
    again = square + [["backward", [3]], ["exp", [0]], ["backward_with", [4, 1]], ["grad", [0]]]
    case("backward_with", "adds to what is there", [x, g], steps=again, outputs=[5])
    case("grad", "of a leaf", [x, g], steps=once, outputs=[4])
    cleared = square + [["backward", [3]], ["zero_grad", [0]], ["exp", [0]], ["backward_with", [4, 1]]]
    cleared += [["grad", [0]]]
    case("zero_grad", "between two passes", [x, g], steps=cleared, outputs=[5])
    given_one = [["set_grad", [0, 1]], ["sqr", [0]], ["sum_all", [2]], ["backward", [3]]]
    case("set_grad", "is added to", [x, g], steps=given_one, outputs=[0])
    case("requires_grad", "one leaf, many readers", [x],
         steps=[["mul", [0, 0]], ["mul", [1, 0]], ["add", [2, 1]], ["sub", [3, 0]]])  # fmt: skip
    case("detach", "stops the gradient", [x], steps=[["sqr", [0]], ["detach", [1]], ["mul", [2, 0]]])
    case("apply", "two operands", [x, t(3)], {"definition": "swiglu"})
    case("apply", "two values", [x], {"definition": "clamp", "values": [-0.25, 0.5]})


def parts():
    t = drawn("parts")
    turn = [["transpose", [0], {"a": 0, "b": 1}]]
    for method, options, count in [
        ("split", {"axis": 0, "lengths": [1, 3]}, 2), ("split", {"axis": 1, "lengths": [2, 0, 1]}, 3),
        ("chunk", {"axis": 0, "parts": 3}, 2), ("chunk", {"axis": 1, "parts": 2}, 2),
        ("unbind", {"axis": 0}, 4), ("unbind", {"axis": 1}, 3),
    ]:  # fmt: skip
        title = ", ".join(f"{k} {v}" for k, v in options.items())
        every = list(range(1, count + 1))
        case(method, title, [t(4, 3)], steps=[[method, [0], options]], outputs=every)
        # One part is left out: its gradient is zeros.
        steps = [*turn, [method, [1], options], ["sqr", [2]], ["sum_all", [count + 2]]]
        turned = t(3, 4)
        case(method, f"{title}, one part of a transposed view", [turned], steps=steps, outputs=[count + 3])
    case("to_device", "there and back", [t(2, 3)], steps=[["sqr", [0]], ["to_device", [1]], ["exp", [2]]])


def main():
    for section in (elementwises, reductions, views, rows, indices, products, attentions, makers, writes, gradients, parts):
        section()
    version = torch.__version__.split("+")[0]
    text = f'{{"torch": "{version}",\n "cases": [\n' + ",\n".join(map(line, CASES)) + "\n]}\n"
    Path(__file__).with_name("tensor.json").write_text(text, encoding="utf-8")
    print(len(CASES), "cases of", len({c["method"] for c in CASES}), "methods,", len(text), "bytes")


if __name__ == "__main__":
    main()
