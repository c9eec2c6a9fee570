"""Simulation of whole deployments in virtual time: random schedules of the shipped code, drawn from a printed seed."""
