"""Transfers: from the service to a store."""
