"""Runs of the harness with times made up, for its bars and pages."""

import numpy as np

import fastconv
from bench import records

A, B = "f32_n1c8h8w8_k8r3s3", "f32_n1c16h8w8_k8r3s3"


def a_run(*rows, **limits):
    """A run of rows (problem, direction, threads, name, samples or a reason)."""
    found = []
    for problem, direction, threads, name, samples in rows:
        parsed = fastconv.parse_problem(problem)
        timed = not isinstance(samples, str)
        found.append({
            "family": getattr(parsed, "kind", "conv"), "problem": problem, "direction": direction, "threads": threads,
            "name": name, "status": "timed" if timed else "refused", "reason": None if timed else samples,
            "samples": samples if timed else [], "median": float(np.median(samples)) if timed else None,
            "macs": parsed.macs, "bytes": parsed.bytes,
        })  # fmt: skip
    measured = [
        {"threads": 1, "threads_float32": 10.0, "copy_memory": 10.0, "level": "v3", "float32": {"v3": 10.0},
         "float64": {"v3": 5.0}},
        {"threads": 2, "threads_float32": 20.0, "copy_memory": 12.0, "level": "v3", "float32": {"v3": 10.0},
         "float64": {"v3": 5.0}},
    ]  # fmt: skip
    return records.Run({"schema": records.SCHEMA}, measured, found)
