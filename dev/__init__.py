"""Tools of this repository's developers: a real Airflow to test against, and the demo."""
