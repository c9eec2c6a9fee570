"""Buttons on the page of a task."""

from types import SimpleNamespace

import pytest

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_manxue._client.console_pages import aws_console_page, google_console_page
from airflow_provider_manxue.links import manxue as links
from airflow_provider_manxue.links.manxue import ManxueSavedVideoLink, ManxueVideoLink, video_link_xcom
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from tests.support.serialization import stored_tasks

TI_KEY = object()
NO_ADDRESS = [
    None,
    "",
    5,
    {"a": 1},
    ["https://a/b"],
    "javascript:alert(1)",
    "s3://bucket/a.mp4",
    "data:text/html,x",
]


def order(**arguments):
    return ManxueCreateVideoOperator(
        task_id="task", prompt="A lighthouse", model="sd2_manxue_720p", retries=0, **arguments
    )


def save(destination, **arguments):
    return ManxueToObjectStorageOperator(
        task_id="task", video_task_id="v1", destination=destination, **arguments
    )


@pytest.fixture
def link_of(monkeypatch):
    """Compute a link from a task's XComs."""

    def compute(link, **xcom):
        def get_value(*, ti_key, key):
            assert ti_key is TI_KEY
            return xcom.get(key)

        monkeypatch.setattr(links, "XCom", SimpleNamespace(get_value=get_value))
        return link.get_link(object(), ti_key=TI_KEY)

    return compute


@pytest.mark.parametrize(
    ("link", "key"), [(ManxueVideoLink(), "video_url"), (ManxueSavedVideoLink(), "web_address")]
)
class TestLink:
    def test_link_is_the_address_in_the_xcom(self, link_of, link, key):
        assert link_of(link, **{key: "https://host/a.mp4?s=%2B"}) == "https://host/a.mp4?s=%2B"

    def test_link_is_empty_without_an_xcom(self, link_of, link, key):
        assert link_of(link) == ""

    @pytest.mark.parametrize("value", NO_ADDRESS)
    def test_link_is_empty_unless_a_web_address(self, link_of, link, key, value):
        assert link_of(link, **{key: value}) == ""


def test_each_task_has_its_own_link():
    names = {
        task: [link.name for link in task.operator_extra_links]
        for task in (
            ManxueVideoSensor,
            ManxueVideoBatchSensor,
            ManxueCreateVideoOperator,
            ManxueToObjectStorageOperator,
        )
    }

    assert names == {
        ManxueVideoSensor: ["Watch video"],
        ManxueVideoBatchSensor: [],
        ManxueCreateVideoOperator: ["Watch video"],
        ManxueToObjectStorageOperator: ["Saved video"],
    }


@pytest.mark.parametrize(
    "task",
    [
        lambda: ManxueVideoSensor(task_id="task", video_task_id="v1", do_xcom_push=False),
        lambda: order(do_xcom_push=False),
        lambda: order(wait_for_completion=False),
        lambda: save("s3://films/", do_xcom_push=False),
        lambda: save("file:///films/"),
        lambda: save("abfs://films/{{ ds }}/"),
    ],
)
def test_task_without_an_address_has_no_link(task):
    """Airflow 3 would show the heading of the links alone."""
    with DAG("dag", schedule=None) as dag:
        assert list(task().operator_extra_links) == []

    assert "_operator_extra_links" not in stored_tasks(dag)["task"]


@pytest.mark.parametrize("destination", ["s3://films/", "gs://films/{{ ds }}.mp4", "{{ params.folder }}"])
def test_save_to_a_store_with_a_console_has_a_link(destination):
    assert [link.name for link in save(destination).operator_extra_links] == ["Saved video"]


@pytest.mark.skipif(not hasattr(ManxueVideoLink, "xcom_key"), reason="Airflow 2 keeps no links in XCom")
class TestLinkXCom:
    def test_link_xcom_has_the_key_that_airflow_reads(self):
        assert video_link_xcom("https://host/a.mp4") == (ManxueVideoLink().xcom_key, "https://host/a.mp4")

    @pytest.mark.parametrize("value", NO_ADDRESS)
    def test_link_xcom_is_empty_unless_a_web_address(self, value):
        assert video_link_xcom(value) == (ManxueVideoLink().xcom_key, "")


@pytest.mark.parametrize(
    ("endpoint", "page"),
    [
        ("https://s3.amazonaws.com", "console.aws.amazon.com"),
        ("https://s3.eu-central-1.amazonaws.com", "console.aws.amazon.com"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "console.amazonaws.cn"),
        ("https://s3.us-gov-west-1.amazonaws.com", "console.amazonaws-us-gov.com"),
    ],
)
def test_s3_object_has_a_page_in_its_console(endpoint, page):
    """Each partition of AWS has its own console."""
    address = aws_console_page(endpoint, "bucket/a folder/global task%2F2.mp4")

    assert address == f"https://{page}/s3/object/bucket?prefix=a%20folder%2Fglobal%20task%252F2.mp4"


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:9000",
        "https://minio.example",
        "https://xamazonaws.com",
        "https://s3.amazonaws.com.evil.example",
        "",
    ],
)
def test_s3_compatible_store_has_no_console_page(endpoint):
    assert aws_console_page(endpoint, "bucket/a.mp4") is None


def test_google_cloud_object_has_a_console_page():
    assert google_console_page("bucket/a folder/b.mp4") == (
        "https://console.cloud.google.com/storage/browser/_details/bucket/a%20folder/b.mp4"
    )
