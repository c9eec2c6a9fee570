"""Pages of stored videos in the web consoles of stores."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

_AWS_CONSOLES = {
    r"\.us-gov-[^.]+\.amazonaws\.com": "console.amazonaws-us-gov.com",
    r"\.amazonaws\.com": "console.aws.amazon.com",
    r"\.amazonaws\.com\.cn": "console.amazonaws.cn",
}
"""Hosts of the consoles of AWS, by the suffix of the name of the host that serves S3."""


def aws_console_page(endpoint: str, path: str) -> str | None:
    """
    Return the page of an object in the console of AWS; None for another S3-compatible store.

    :param endpoint: URL of the store's API.
    :param path: bucket and key, with a slash between.
    """
    host = urlsplit(endpoint).hostname or ""
    console = next((name for domain, name in _AWS_CONSOLES.items() if re.search(f"{domain}$", host)), None)
    bucket, _, key = path.partition("/")
    return f"https://{console}/s3/object/{quote(bucket)}?prefix={quote(key, safe='')}" if console else None


def google_console_page(path: str) -> str:
    """
    Return the page of an object in the console of Google Cloud.

    :param path: bucket and key, with a slash between.
    """
    return f"https://console.cloud.google.com/storage/browser/_details/{quote(path)}"
