"""The operator that orders videos."""
