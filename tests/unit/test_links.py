"""The buttons on a task's page."""

from types import SimpleNamespace

import pytest

from airflow_provider_manxue._client.console_pages import aws_console_page, google_console_page
from airflow_provider_manxue.links import manxue as links
from airflow_provider_manxue.links.manxue import ManxueSavedVideoLink, ManxueVideoLink, video_link_xcom
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.sensors.manxue import ManxueVideoBatchSensor, ManxueVideoSensor
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

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
class TestALink:
    def test_leads_where_the_task_says(self, link_of, link, key):
        assert link_of(link, **{key: "https://host/a.mp4?s=%2B"}) == "https://host/a.mp4?s=%2B"

    def test_is_empty_before_there_is_anything(self, link_of, link, key):
        assert link_of(link) == ""

    @pytest.mark.parametrize("value", NO_ADDRESS)
    def test_never_leads_to_anything_but_a_web_address(self, link_of, link, key, value):
        assert link_of(link, **{key: value}) == ""


def test_each_task_has_the_link_that_fits():
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


@pytest.mark.skipif(not hasattr(ManxueVideoLink, "xcom_key"), reason="Airflow 2 keeps no links in XCom")
class TestTheXComOfALink:
    def test_is_the_one_that_airflow_reads(self):
        assert video_link_xcom("https://host/a.mp4") == (ManxueVideoLink().xcom_key, "https://host/a.mp4")

    @pytest.mark.parametrize("value", NO_ADDRESS)
    def test_is_empty_where_the_link_would_be(self, value):
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
def test_an_object_on_s3_has_a_page_in_the_console_of_its_partition(endpoint, page):
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
def test_an_object_in_a_store_that_only_speaks_s3_has_no_page_in_the_console_of_aws(endpoint):
    assert aws_console_page(endpoint, "bucket/a.mp4") is None


def test_an_object_on_google_cloud_has_a_page_in_its_console():
    assert google_console_page("bucket/a folder/b.mp4") == (
        "https://console.cloud.google.com/storage/browser/_details/bucket/a%20folder/b.mp4"
    )
