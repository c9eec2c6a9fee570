"""Airflow's runtime: what the waiting tasks share."""
