"""Random calls of the public doors, as plain dictionaries; often a wrong one."""

from __future__ import annotations

from hypothesis import strategies as st

_FLOATS = ("float64", "float32", "bfloat16", "float16")
_INTEGERS = ("int64", "int32", "int16", "uint8")
_FAR = (2**31, 2**40, -(2**40), 2**63 - 1)


def _mostly(good, bad):
    """``good``, and one time in twenty-four ``bad``."""
    return st.integers(0, 23).flatmap(lambda at: bad if at == 23 else good)


def _shape(*sizes: int, most: int = 6):
    """A shape, seldom with a dimension or a size too many or too few."""
    good = st.just(list(sizes))
    bad = st.lists(st.integers(0, most), min_size=0, max_size=4)
    return _mostly(good, bad)


@st.composite
def _tensor(draw, *sizes, dtype="float64", forms=("strided", "expanded", "meta", "nan")):
    other = st.sampled_from(_FLOATS + _INTEGERS + ("bool", "complex64"))
    return {
        "shape": draw(_shape(*sizes)),
        "dtype": draw(_mostly(st.just(dtype), other)),
        "form": draw(_mostly(st.just("plain"), st.sampled_from(forms))),
        "shift": draw(st.integers(0, 5)),
    }


def _index(size: int):
    good = st.integers(0, max(size - 1, 0))
    return st.integers(0, 30).flatmap(
        lambda at: st.sampled_from((-1, size, size + 1, *_FAR)) if at == 30 else good
    )


@st.composite
def _edge_index(draw, num_src, num_dst):
    count = draw(st.integers(0, 12)) if min(num_src, num_dst) else 0
    form = st.sampled_from(
        ["strided", "EdgeIndex", "CSR", "COO", "1-D", "three rows", "meta", "list"]
    )
    return {
        "src": draw(st.lists(_index(num_src), min_size=count, max_size=count)),
        "dst": draw(st.lists(_index(num_dst), min_size=count, max_size=count)),
        "dtype": draw(_mostly(st.just("int64"), st.sampled_from((*_INTEGERS, "float32", "bool")))),
        "form": draw(_mostly(st.just("plain"), form)),
        "size": [num_src, num_dst],
    }


@st.composite
def _layer_call(draw):
    size, rows = draw(st.integers(1, 4)), draw(st.integers(0, 6))
    pair = draw(st.booleans())
    num_dst = draw(st.integers(0, 6)) if pair else rows
    edge_dim = draw(st.sampled_from([None, None, 1, 3]))
    dtype = draw(_mostly(st.just("float64"), st.sampled_from(_FLOATS)))
    edge_index = draw(_edge_index(rows, num_dst))
    attr = _tensor(len(edge_index["src"]), edge_dim or 1, dtype=dtype)
    channels = _mostly(st.integers(1, 4), st.sampled_from([0, -1, 65]))
    return {
        "door": "layer",
        "layer": {
            "in_channels": [size, size] if pair else size,
            "out_channels": draw(channels),
            "heads": draw(_mostly(st.integers(1, 3), st.sampled_from([0, -1, 9]))),
            "concat": draw(st.booleans()),
            "negative_slope": draw(
                _mostly(st.just(0.2), st.sampled_from([0.0, 1.0, -1.0, 3.0, float("nan")]))
            ),
            "dropout": draw(_mostly(st.just(0.0), st.sampled_from([1.0, 1.5, -0.1, float("nan")]))),
            "add_self_loops": draw(st.booleans()),
            "edge_dim": edge_dim,
            "fill_value": draw(
                st.sampled_from(["mean", "add", "max", "min", "mul", 0.5, "median"])
            ),
            "bias": draw(st.booleans()),
            "share_weights": draw(st.booleans()),
            "residual": draw(st.booleans()),
            "flow": draw(
                _mostly(st.just("source_to_target"), st.sampled_from(["target_to_source", "up"]))
            ),
            "aggr": draw(_mostly(st.just("add"), st.sampled_from(["max", "mean", "bogus"]))),
        },
        "backend": draw(st.sampled_from(["auto", "auto", "reference"])),
        "dtype": dtype,
        "x": [draw(_tensor(n, size, dtype=dtype)) for n in ((rows, num_dst) if pair else (rows,))],
        "edge_index": edge_index,
        "edge_attr": draw(attr) if edge_dim or draw(st.integers(0, 9)) == 0 else None,
        "attention": draw(st.sampled_from([None, True])),
    }


@st.composite
def _function_call(draw):
    num_src, num_dst = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    heads, channels, features = (draw(st.integers(1, most)) for most in (3, 5, 3))
    loops = draw(st.booleans())
    given = draw(_edge_index(num_src, num_dst))
    ids = len(given["src"]) + (min(num_src, num_dst) if loops else 0)
    dtype = draw(_mostly(st.just("float64"), st.sampled_from(_FLOATS)))
    with_attr = draw(st.booleans())
    lead = draw(st.sampled_from([[], [], [], [1], [2], [0], [2, 1]]))
    bias = draw(st.sampled_from([None, None, [ids], [ids, heads]]))
    forms = ("strided", "expanded", "meta", "masked", "masked", "masked")
    return {
        "door": "function",
        "edge_index": given,
        "graph": {
            "num_src": draw(_mostly(st.just(num_src), st.integers(-2, 9))),
            "num_dst": draw(_mostly(st.just(num_dst), st.integers(-2, 9))),
            "add_self_loops": loops,
        },
        "x_src": draw(_tensor(*lead, num_src, heads, channels, dtype=dtype)),
        "x_dst": draw(_tensor(*lead, num_dst, heads, channels, dtype=dtype)),
        "att": draw(_tensor(heads, channels, dtype=dtype)),
        "edge_attr": draw(_tensor(ids, features, dtype=dtype)) if with_attr else None,
        "edge_weight": draw(_tensor(heads * channels, features, dtype=dtype))
        if with_attr
        else None,
        "attn_bias": None if bias is None else draw(_tensor(*bias, dtype=dtype, forms=forms)),
        "backend": draw(st.sampled_from(["auto", "reference"])),
    }


@st.composite
def _csc_call(draw):
    num_src, num_dst = draw(st.integers(0, 6)), draw(st.integers(0, 5))
    degrees = draw(st.lists(st.integers(0, 3), min_size=num_dst, max_size=num_dst))
    degrees = degrees if num_src else [0] * num_dst
    ptr = [sum(degrees[:at]) for at in range(num_dst + 1)]
    count = ptr[-1]
    ids = draw(st.permutations(range(count)))
    lists = {
        "ptr": ptr,
        "idx": draw(st.lists(_index(num_src), min_size=count, max_size=count)),
        "eid": draw(st.sampled_from([None, list(ids)])),
    }
    for name in draw(st.lists(st.sampled_from(list(lists)), max_size=1)):
        value = list(lists[name] or [])
        change = draw(st.integers(0, 3))
        if change == 0 or not value:
            value = value[:-1]
        elif change == 1:
            value = [*value, draw(st.integers(-2, 20))]
        else:
            at = draw(st.integers(0, len(value) - 1))
            value[at] = draw(st.one_of(st.integers(-3, 12), st.sampled_from(_FAR)))
        lists[name] = value
    return {
        "door": "from_csc",
        **lists,
        "num_src": draw(_mostly(st.just(num_src), st.integers(-2, 8))),
        "dtype": draw(_mostly(st.just("int64"), st.sampled_from((*_INTEGERS, "float32")))),
        "backend": draw(st.sampled_from(["auto", "reference"])),
    }


@st.composite
def _raw_call(draw):
    return {
        "door": "raw",
        "operator": draw(st.integers(0, 7)),
        "argument": draw(st.integers(0, 31)),
        "change": draw(st.integers(0, 63)),
        "loops": draw(st.booleans()),
        "edge_dim": draw(st.sampled_from([None, 3])),
    }


_DRAWN = {
    "layer": _layer_call,
    "function": _function_call,
    "from_csc": _csc_call,
    "raw": _raw_call,
}
DOORS = tuple(_DRAWN)


def calls(doors: tuple[str, ...] = DOORS):
    """Descriptions of calls, as plain dictionaries."""
    return st.one_of(*(_DRAWN[door]() for door in doors))
