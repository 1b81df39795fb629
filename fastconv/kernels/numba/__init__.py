"""Kernels written in Python and compiled by Numba when they are first called.

Each is a range kernel ``(task, arrays..., buffer, first, last, step)`` over work items, with two thin callers: one
over prange, one serial. A thread works in a row of `buffers` of its own; what an item computes depends neither on
the thread nor on what the buffer held before.

Arrays are flat and C-contiguous, those only read are marked read-only, and every integer is an int64: so each kernel
is compiled once per dtype. Contraction of a * b + c is the only freedom that the compiler gets.
Nothing here is imported before an algorithm needs it: importing Numba takes half a second.
"""
