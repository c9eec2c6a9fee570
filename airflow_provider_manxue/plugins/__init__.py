"""Additions to Airflow's UI."""
