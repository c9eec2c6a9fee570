"""Tests that run long: what they try is drawn by chance, from a seed that is printed."""
