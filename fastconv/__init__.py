"""Convolution and pooling on the CPU."""
