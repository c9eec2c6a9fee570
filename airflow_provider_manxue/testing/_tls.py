"""TLS with a generated certificate authority."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path


class Authority:
    """
    A certificate authority, and a server certificate for loopback.

    :param host: another name or address for the certificate.
    :raises ModuleNotFoundError: if ``trustme`` is not installed.
    """

    def __init__(self, host: str) -> None:
        try:
            import trustme
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "TLS could not be set up: package trustme is missing."
                " Install it with: pip install 'airflow-provider-manxue[testing]'"
            ) from error
        authority = trustme.CA()
        self._directory = tempfile.TemporaryDirectory(prefix="manxue-emulator-")
        self.ca_bundle = Path(self._directory.name) / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_bundle)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = dict.fromkeys(["127.0.0.1", "::1", "localhost", host])
        authority.issue_cert(*names).configure_cert(self.context)

    def close(self) -> None:
        """Delete the file with the authority's certificate."""
        self._directory.cleanup()
