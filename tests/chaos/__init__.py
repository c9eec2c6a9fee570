"""Faults on a real deployment: twenty videos, several kinds of fault, and what must hold afterwards."""
