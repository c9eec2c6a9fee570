"""Signed URLs without their signatures, for logs and fingerprints. No I/O happens here."""

from __future__ import annotations

import re

_SIGNATURE_PARAMETER = re.compile(
    r"(x-amz|x-goog|x-oss|q)-.*|awsaccesskeyid|googleaccessid|ossaccesskeyid|key-pair-id|policy|security-token|expires"
    r"|signature",
    re.IGNORECASE,
)
"""Query parameters of signed URLs: Amazon S3, CloudFront, Google Cloud Storage, Alibaba Cloud OSS, Tencent Cloud COS."""

_AZURE_SAS_PARAMETER = re.compile(
    "sv|ss|srt|sp|st|se|sip|spr|sr|sig|skoid|sktid|skt|ske|sks|skv|saoid|suoid|scid|sdd|ses"
)
"""Query parameters of a shared access signature of Azure. They are short, so they are only removed from URLs with
``sig``."""


def without_signature(url: str) -> str:
    """Return a URL without the known parameters of signatures. The spelling and order of the rest are unchanged."""
    address, _, query = url.partition("?")
    parameters = query.split("&")
    names = [parameter.partition("=")[0] for parameter in parameters]
    is_azure = "sig" in names
    signing = {
        name
        for name in names
        if _SIGNATURE_PARAMETER.fullmatch(name) or (is_azure and _AZURE_SAS_PARAMETER.fullmatch(name))
    }
    left = [parameter for parameter in parameters if parameter.partition("=")[0] not in signing]
    return f"{address}?{'&'.join(left)}" if any(left) else address


def without_query(url: str) -> str:
    """Return a URL with its query masked."""
    address, mark, _ = url.partition("?")
    return f"{address}?***" if mark else address
