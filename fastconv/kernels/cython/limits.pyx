"""Measures the limits of the machine."""
def probe():
    return 1
