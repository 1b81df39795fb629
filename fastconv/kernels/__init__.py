"""Pure loops on contiguous arrays: no validation, no Python objects, no knowledge of algorithms."""
