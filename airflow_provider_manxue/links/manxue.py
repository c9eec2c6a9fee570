"""
Buttons on a task's page in Airflow's UI.

Airflow 3 calls ``get_link`` on the worker when the task ends, and stores the link. Airflow 2 calls it on the web server for
each view of the page. The link is read from an XCom; "" means that there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey

NO_LINKS: tuple[BaseOperatorLink, ...] = ()
"""Links of a task that will have no address for them. Airflow 3 shows a heading for declared links, also if all are empty."""


class _XComLink(BaseOperatorLink):
    """Base of a link whose address is in an XCom of the task."""

    _address_key: str

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address in the XCom of the task instance; "" if there is none."""
        return _web_address(XCom.get_value(ti_key=ti_key, key=self._address_key))


class ManxueVideoLink(_XComLink):
    """Link to the completed video. Works for as long as the URL is valid."""

    name = "Watch video"
    _address_key = "video_url"


class ManxueSavedVideoLink(_XComLink):
    """Link to the saved video, if its store shows objects in a browser."""

    name = "Saved video"
    _address_key = "web_address"


def video_link_xcom(video_url: Any) -> tuple[str, str]:
    """
    Return the key and the value of the XCom for the link to a video, in the form of Airflow 3.

    A task that ends in the triggerer pushes it itself, since no worker calls ``get_link``.

    :param video_url: the XCom ``video_url`` of the task.
    """
    return ManxueVideoLink().xcom_key, _web_address(video_url)


def _web_address(value: Any) -> str:
    """Return an HTTP address, or "". Airflow's page would run the script in a ``javascript:`` address."""
    is_address = isinstance(value, str) and value.lower().startswith(("https://", "http://"))
    return value if is_address else ""
