"""
The buttons on a task's page in Airflow's UI.

Airflow 3 asks for a link on the worker, when the task ends, and keeps the answer; Airflow 2 asks on its web server,
each time. Either way it comes from XCom, and "" means that there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey


class ManxueVideoLink(BaseOperatorLink):
    """Leads to the finished video, as long as its URL lives."""

    name = "Watch video"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Return the URL of the video, or "".

        :param operator: the task.
        :param ti_key: the task instance.
        """
        return _web_address(XCom.get_value(ti_key=ti_key, key="video_url"))


class ManxueSavedVideoLink(BaseOperatorLink):
    """Leads to the saved video, if its store shows objects in a browser."""

    name = "Saved video"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Return the address of the saved video's page, or "".

        :param operator: the task.
        :param ti_key: the task instance.
        """
        return _web_address(XCom.get_value(ti_key=ti_key, key="web_address"))


def video_link_xcom(video_url: Any) -> tuple[str, str]:
    """
    Return key and value of the XCom in which Airflow 3 keeps the link to a video.

    For a task that ends in the triggerer, where no worker asks for the link.

    :param video_url: what the task hands over as ``video_url``.
    """
    return ManxueVideoLink().xcom_key, _web_address(video_url)


def _web_address(value: Any) -> str:
    """Return what a browser may open; a script in place of an address would run in Airflow's own page."""
    is_address = isinstance(value, str) and value.lower().startswith(("https://", "http://"))
    return value if is_address else ""
