"""How all kernels are compiled."""

from __future__ import annotations

from typing import Any

#: IEEE arithmetic but for the contraction of a * b + c, which doubles the peak; division by zero gives infinity.
RANGE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

#: The thin caller over prange.
PARALLEL: dict[str, Any] = {"nogil": True, "error_model": "numpy", "parallel": True}

#: A function that only kernels call: without the wrappers that Python and C would call it by.
INNER: dict[str, Any] = {**RANGE, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
