"""Run a command of the provider: ``python -m airflow_provider_manxue doctor``."""

from __future__ import annotations

from airflow_provider_manxue.cli import main

if __name__ == "__main__":
    main()
