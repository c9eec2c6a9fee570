"""Apache Airflow provider for the sd2_manxue video-generation service."""

from __future__ import annotations

__version__ = "0.1.0"
