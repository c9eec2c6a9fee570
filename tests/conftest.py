"""Environment of all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Airflow reads it when it is imported. Without it, a test would read and write the Airflow in the home folder.
os.environ["AIRFLOW_HOME"] = str(Path(sys.prefix, "airflow"))
