"""The baseline unit."""

