"""The host-anomaly graph: fixed and small, with every fitted number as an input.

Shapes: d metrics, k kept directions, m hidden units, q = LAGS*d + SEASON, f = q + m + 1.
`history` holds the standardised vectors before this one, the newest first.

  z        = clip((x - center) * inv_scale, +-20); a missing metric takes its forecast
  level    = z minus the daily baseline                                (how high)
  subspace = what the host's own principal directions of a 10-step window leave of z   (how odd a mix)
  temporal = z minus a ridge forecast from 5 lags, the time of day and m fixed random units (how unforeseen)

Each residual is divided by its own RMS, clipped, and reduced over the metrics that are present: the root of the
mean square for each layer, and the mean absolute value of the temporal one, which answers to broad change.
"""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

LAGS = 5
WINDOW = 10
SEASON = 8
CLIP = 20.0
HIDDEN_CLIP = 5.0

INPUTS = [
    ("x", ["metrics"]),
    ("mask", ["metrics"]),
    ("history", [WINDOW - 1, "metrics"]),
    ("season", [SEASON]),
    ("center", ["metrics"]),
    ("inv_scale", ["metrics"]),
    ("baseline", [SEASON + 1, "metrics"]),
    ("hidden_weight", ["past", "hidden"]),
    ("hidden_bias", ["hidden"]),
    ("forecast", ["features", "metrics"]),
    ("window_center", ["window"]),
    ("basis", ["window", "directions"]),
    ("level_inv", ["metrics"]),
    ("subspace_inv", ["metrics"]),
    ("temporal_inv", ["metrics"]),
]
OUTPUTS = [
    ("z", ["metrics"]),
    ("expected", ["metrics"]),
    ("features", ["features"]),
    ("level_raw", ["metrics"]),
    ("subspace_raw", ["metrics"]),
    ("temporal_raw", ["metrics"]),
    ("level", ["metrics"]),
    ("subspace", ["metrics"]),
    ("temporal", ["metrics"]),
    ("scores", [4]),
]
LAYERS = ["temporal", "temporal_broad", "level", "subspace"]


def graph():
    """The ONNX model, opset 17 and ir 9."""
    nodes = []

    def op(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def const(name, value, dtype=np.float32):
        constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    constants = []
    const("one", 1.0), const("clip", CLIP), const("minus_clip", -CLIP)
    const("hidden_clip", HIDDEN_CLIP), const("minus_hidden_clip", -HIDDEN_CLIP), const("one_row", [[1.0]])
    const("start", [0], np.int64), const("lags", [LAGS], np.int64), const("rows", [0], np.int64)
    const("row", [1, -1], np.int64), const("flat", [-1], np.int64)

    def row(name):
        return op("Reshape", [name, "row"], name + "_row")

    def flat(name, output):
        return op("Reshape", [name, "flat"], output)

    # The forecast, whose features the host also accumulates.
    lagged = op("Slice", ["history", "start", "lags", "rows"], "lagged")
    past = op("Concat", [row(lagged), row("season")], "past", axis=1)
    bounded = op("Clip", [past, "minus_hidden_clip", "hidden_clip"], "past_bounded")
    hidden = op("Tanh", [op("Add", [op("MatMul", [bounded, "hidden_weight"], "drive"), "hidden_bias"], "drive_bias")], "units")
    features = op("Concat", [past, hidden, "one_row"], "features_row", axis=1)
    flat(features, "features")
    forecast = flat(op("MatMul", [features, "forecast"], "forecast_row"), "forecast_flat")

    # Standardise; what is missing takes its forecast, so that it neither alarms nor teaches.
    offset = op("Mul", [op("Sub", ["x", "center"], "offset"), "inv_scale"], "offset_scaled")
    seen = op("Mul", [op("Clip", [offset, "minus_clip", "clip"], "z_seen"), "mask"], "z_masked")
    absent = op("Sub", ["one", "mask"], "absent")
    filled = op("Mul", [op("Clip", [forecast, "minus_clip", "clip"], "forecast_clipped"), absent], "z_filled")
    op("Add", [seen, filled], "z")
    op("Add", [op("Div", [forecast, "inv_scale"], "expected_offset"), "center"], "expected")

    def residual(layer, difference):
        raw = op("Mul", [difference, "mask"], layer + "_raw")
        scaled = op("Mul", [raw, layer + "_inv"], layer + "_scaled")
        return op("Clip", [scaled, "minus_clip", "clip"], layer)

    season = op("Concat", [row("season"), "one_row"], "season_one", axis=1)
    expected_level = flat(op("MatMul", [season, "baseline"], "baseline_row"), "baseline_flat")
    residual("level", op("Sub", ["z", expected_level], "level_difference"))
    residual("temporal", op("Sub", ["z", forecast], "temporal_difference"))

    window = op("Concat", [row("z"), row("history")], "window_row", axis=1)
    centred = op("Sub", [window, "window_center"], "window_centred")
    weights = op("MatMul", [centred, "basis"], "window_weights")
    rebuilt = op("MatMul", [weights, op("Transpose", ["basis"], "basis_t", perm=[1, 0])], "window_rebuilt")
    left = flat(op("Sub", [centred, rebuilt], "window_left"), "window_left_flat")
    width = op("Shape", ["x"], "width")
    residual("subspace", op("Slice", [left, "start", width, "rows"], "subspace_difference"))

    count = op("Max", [op("ReduceSum", ["mask"], "present", keepdims=0), "one"], "count")

    def rms(layer):
        square = op("ReduceSum", [op("Mul", [layer, layer], layer + "_square")], layer + "_energy", keepdims=0)
        return flat(op("Sqrt", [op("Div", [square, "count"], layer + "_mean")], layer + "_rms"), layer + "_score")

    absolute = op("ReduceSum", [op("Abs", ["temporal"], "temporal_abs")], "temporal_abs_sum", keepdims=0)
    broad = flat(op("Div", [absolute, count], "temporal_abs_mean"), "broad_score")
    op("Concat", [rms("temporal"), broad, rms("level"), rms("subspace")], "scores", axis=0)

    unique = list({node.output[0]: node for node in nodes}.values())
    value = lambda pair: helper.make_tensor_value_info(pair[0], TensorProto.FLOAT, pair[1])
    body = helper.make_graph(unique, "host-anomaly", [value(p) for p in INPUTS], [value(p) for p in OUTPUTS], constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="fleetmend")
    checker.check_model(model, full_check=True)
    return model


def reference(v):
    """The same computation in NumPy float64: what the graph is checked against."""
    clip = lambda a, limit=CLIP: np.clip(a, -limit, limit)
    past = np.concatenate([v["history"][:LAGS].ravel(), v["season"]])
    hidden = np.tanh(clip(past, HIDDEN_CLIP) @ v["hidden_weight"] + v["hidden_bias"])
    features = np.concatenate([past, hidden, [1.0]])
    forecast = features @ v["forecast"]
    z = clip((v["x"] - v["center"]) * v["inv_scale"]) * v["mask"] + clip(forecast) * (1 - v["mask"])
    level = (z - np.concatenate([v["season"], [1.0]]) @ v["baseline"]) * v["mask"]
    temporal = (z - forecast) * v["mask"]
    centred = np.concatenate([z, v["history"].ravel()]) - v["window_center"]
    subspace = (centred - v["basis"] @ (v["basis"].T @ centred))[: len(z)] * v["mask"]
    scaled = {
        "level": clip(level * v["level_inv"]),
        "subspace": clip(subspace * v["subspace_inv"]),
        "temporal": clip(temporal * v["temporal_inv"]),
    }
    count = max(v["mask"].sum(), 1.0)
    rms = lambda a: np.sqrt((a * a).sum() / count)
    scores = [rms(scaled["temporal"]), np.abs(scaled["temporal"]).sum() / count, rms(scaled["level"]), rms(scaled["subspace"])]
    return {
        "z": z, "expected": forecast / v["inv_scale"] + v["center"], "features": features,
        "level_raw": level, "subspace_raw": subspace, "temporal_raw": temporal, **scaled, "scores": np.array(scores),
    }


def golden_inputs(name, metrics=6, hidden=8, directions=5, seed=7):
    """One reproducible set of inputs; `name` says what is special about it."""
    r = np.random.default_rng(seed)
    q = LAGS * metrics + SEASON
    basis, _ = np.linalg.qr(r.standard_normal((WINDOW * metrics, directions)))
    v = {
        "x": r.random(metrics), "mask": np.ones(metrics), "history": r.standard_normal((WINDOW - 1, metrics)),
        "season": np.sin(np.arange(SEASON)), "center": r.random(metrics), "inv_scale": 1 / (0.05 + r.random(metrics)),
        "baseline": r.standard_normal((SEASON + 1, metrics)) * 0.2,
        "hidden_weight": r.standard_normal((q, hidden)) / np.sqrt(q), "hidden_bias": r.standard_normal(hidden) * 0.5,
        "forecast": r.standard_normal((q + hidden + 1, metrics)) * 0.1, "window_center": r.standard_normal(WINDOW * metrics) * 0.1,
        "basis": basis, "level_inv": np.full(metrics, 0.9), "subspace_inv": np.full(metrics, 1.4), "temporal_inv": np.full(metrics, 1.1),
    }
    if name == "spike":
        v["x"][2] += 1e6
    if name == "missing":
        v["mask"][[1, 4]] = 0
        v["x"][[1, 4]] = 0
    if name == "all_missing":
        v["mask"][:] = 0
        v["x"][:] = 0
    if name == "unfitted":
        for key in ("forecast", "baseline", "basis", "window_center"):
            v[key] = np.zeros_like(v[key])
    return {key: np.asarray(value, dtype=np.float32) for key, value in v.items()}


GOLDEN = ["plain", "spike", "missing", "all_missing", "unfitted"]
