"""Kernels written in Python and compiled by Numba when they are first called.

Each is a range kernel ``NAME(task, arrays..., buffers, slot, first, last, step)`` over work items, called as it is when
the work is serial, and by ``NAME_parallel(task, arrays..., buffers, first, last)``, which is no more than a prange over
slots. A slot works in a row of `buffers` of its own; what an item computes depends neither on the slot nor on what
the buffers held before.

Arrays are flat and C-contiguous, those only read are marked read-only, and every integer is an int64: so each kernel
is compiled once per dtype. Contraction of a * b + c is the only freedom that the compiler gets.
Nothing here is imported before an algorithm needs it: importing Numba takes half a second.
"""
