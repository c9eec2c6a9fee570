"""Airflow's runtime: the code that the waiting tasks share."""
