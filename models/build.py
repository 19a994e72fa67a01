#!/usr/bin/env python3
"""Builds every shipped model: `python3 models/build.py` inside an environment made from requirements.txt.

Nothing here trains on data: the graph is fixed, and each host fits its own parameters. The build is reproducible;
`--check` says whether what is committed is what the sources make.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np
import onnxruntime

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from pipeline import host_anomaly as model  # noqa: E402

VERSION = "1.0.0"
TOLERANCE = 1e-4


def digest(data):
    return hashlib.sha256(data).hexdigest()


def to_json(value):
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def run_graph(session, inputs):
    names = [name for name, _ in model.OUTPUTS]
    return dict(zip(names, session.run(names, inputs)))


def golden(graph_bytes):
    """Golden cases: inputs and what the reference says, after checking that ONNX Runtime says the same."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph_bytes, options, providers=["CPUExecutionProvider"])
    cases = []
    for name in model.GOLDEN:
        inputs = model.golden_inputs(name)
        wanted = model.reference({key: value.astype(np.float64) for key, value in inputs.items()})
        found = run_graph(session, inputs)
        for key, value in wanted.items():
            if not np.allclose(value, found[key], rtol=TOLERANCE, atol=TOLERANCE):
                raise SystemExit(f"golden case {name}: output {key} is {found[key]}, the reference says {value}")
        tensor = lambda a: {"shape": list(np.shape(a)), "data": [float(f"{v:.9g}") for v in np.ravel(a)]}
        cases.append({
            "name": name,
            "inputs": {key: tensor(value) for key, value in inputs.items()},
            "outputs": {key: tensor(value) for key, value in wanted.items()},
        })
    return {"tolerance": TOLERANCE, "cases": cases}


def build_host_anomaly(folder):
    schema_bytes = (folder / "features.json").read_bytes()
    features = json.loads(schema_bytes)["features"]
    graph_bytes = model.graph().SerializeToString(deterministic=True)
    golden_bytes = (json.dumps(golden(graph_bytes), separators=(",", ":")) + "\n").encode()
    manifest = {
        "manifest_version": 1,
        "name": "host-anomaly",
        "version": VERSION,
        "graph": {"file": "model.onnx", "sha256": digest(graph_bytes), "opset": 17, "ir": 9},
        "features": {"file": "features.json", "sha256": digest(schema_bytes), "count": len(features)},
        "golden": {"file": "golden.json", "sha256": digest(golden_bytes)},
        "evaluation": {"file": "evaluation.json"},
        "card": {"file": "card.md"},
        "parameters": {
            "lags": model.LAGS, "window": model.WINDOW, "season": model.SEASON, "clip": model.CLIP,
            "hidden_units": 256, "hidden_seed": 20260801, "scale_floor": 0.01, "layers": model.LAYERS,
        },
        "budget": {"p99_us": 200, "threads": 1},
        # Shipped models are vouched for by the package they came in; a model sent to a fleet carries one.
        "signature": None,
    }
    return {"model.onnx": graph_bytes, "golden.json": golden_bytes, "manifest.json": to_json(manifest)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    arguments = parser.parse_args()
    folder = HERE / "host-anomaly"
    stale = []
    for name, data in build_host_anomaly(folder).items():
        path = folder / name
        if arguments.check:
            if not path.exists() or path.read_bytes() != data:
                stale.append(name)
            continue
        path.write_bytes(data)
        print(f"host-anomaly/{name}: {len(data)} bytes, sha256 {digest(data)[:16]}")
    if stale:
        raise SystemExit("not what the sources make: " + ", ".join(stale))


if __name__ == "__main__":
    main()
