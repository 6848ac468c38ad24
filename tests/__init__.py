"""Tests mirror the package. This file makes them a package of their own, whatever else calls itself ``tests``."""
