"""Faults in a real deployment: runs of twenty videos, random faults, and the invariants checked afterwards."""
