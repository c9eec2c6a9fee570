"""The settings that Airflow knows, for tests of texts that name some."""

from __future__ import annotations

import configparser
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import airflow
from airflow.version import version

from airflow_provider_manxue.get_provider_info import get_provider_info

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

AIRFLOW = Path(airflow.__file__).parent

newest = pytest.mark.skipif(
    tuple(map(int, version.split(".")[:2])) < (3, 3),
    reason="the pages name settings, labels and commands of the newest Airflow",
)

Setting = tuple[str, str]
"""Section and option."""

PASSED_ON = frozenset({("celery_broker_transport_options", "visibility_timeout")})
"""Settings that Airflow passes on to another program, without a description."""


@cache
def known_settings() -> frozenset[Setting]:
    """Return the settings of Airflow, of providers that Airflow has defaults for, and of this package."""
    fallbacks = configparser.ConfigParser(interpolation=None, strict=False)
    fallbacks.read(AIRFLOW / "config_templates/provider_config_fallback_defaults.cfg")
    described = yaml.safe_load((AIRFLOW / "config_templates/config.yml").read_text())
    of_providers = {(section, option) for section in fallbacks.sections() for option in fallbacks[section]}
    return PASSED_ON.union(of_providers, _options(described), _options(get_provider_info()["config"]))


def _options(config: Mapping[str, Any]) -> set[Setting]:
    return {(section, option.lower()) for section, each in config.items() for option in each["options"] or ()}


def settings_in_environment(text: str) -> Iterator[Setting]:
    """Yield the settings that a text names as environment variables."""
    for section, option in re.findall(r"\bAIRFLOW__([A-Z0-9_]+?)__([A-Z0-9_]+)", text):
        yield section.lower(), option.lower()
