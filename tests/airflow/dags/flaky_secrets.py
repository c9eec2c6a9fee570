"""Secrets backend that fails while the file ``down`` exists."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.secrets.base_secrets import BaseSecretsBackend

FOLDER = "MANXUE_TEST_SECRETS"
"""Environment variable with the folder of the connection files, ``down`` and ``failed``."""


class FlakySecrets(BaseSecretsBackend):
    """Connections in files."""

    def get_conn_value(self, conn_id: str) -> str | None:
        """Return a connection. Writes each failed look-up to the file ``failed``."""
        folder = Path(os.environ[FOLDER])
        file = folder / f"{conn_id}.json"
        if not file.exists():
            return None
        if (folder / "down").exists():
            with (folder / "failed").open("a") as failed:
                failed.write(f"{conn_id}\n")
            raise RuntimeError("HTTP 503 from the secrets backend")
        return file.read_text()
