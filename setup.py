"""
Build step that makes the links of the README absolute, since a package index resolves no relative ones.

They lead to the tag of the version in ``Repository`` of ``[project.urls]``. Without that address they stay as they are.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
_RELATIVE = re.compile(r'(\]\(|\b(?:href|src|srcset)=")(?![a-z]+:|#)([^)"\s]+)')
_PICTURES = (".gif", ".png", ".svg", ".webp")


def description(readme: str, repository: str | None, version: str) -> str:
    """
    Return the README as a package index shows it.

    :param repository: address of the repository, on a forge with the paths of GitHub.
    """

    def absolute(match: re.Match[str]) -> str:
        kind = "raw" if match[2].endswith(_PICTURES) else "blob"
        return f"{match[1]}{repository}/{kind}/v{version}/{match[2]}"

    return _RELATIVE.sub(absolute, readme) if repository else readme


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def main() -> None:
    """Pass the description to setuptools. Everything else is in pyproject.toml and setup.cfg."""
    project = tomllib.loads(_read("pyproject.toml"))["project"]
    # As text: the package itself cannot be imported while it is built.
    (version,) = re.findall(
        r'^__version__ = "(.+)"$', _read("airflow_provider_manxue/__init__.py"), re.MULTILINE
    )
    setup(
        long_description=description(_read("README.md"), project.get("urls", {}).get("Repository"), version),
        long_description_content_type="text/markdown",
    )


if __name__ == "__main__":
    main()
