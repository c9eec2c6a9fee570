"""Destinations of saved videos: the name of the file, and destinations that are refused."""

from __future__ import annotations

import re

import pytest

from airflow_provider_manxue._core.destination import may_have_web_page, names_one_file, parse_destination
from airflow_provider_manxue.exceptions import ManxueInputError


@pytest.mark.parametrize(
    ("destination", "uri"),
    [
        ("s3://b/", "s3://b/a%2Fb%20c.mp4"),
        ("s3://b/x/", "s3://b/x/a%2Fb%20c.mp4"),
        ("s3://b/x.mov", "s3://b/x.mov"),
        (" file:///x/ ", "file:///x/a%2Fb%20c.mp4"),
        ("local:///x/y.mp4", "local:///x/y.mp4"),
        ("abfss://c@account/x/", "abfss://c@account/x/a%2Fb%20c.mp4"),
        ("a1+b.c-d://b/x://y/z..mp4", "a1+b.c-d://b/x://y/z..mp4"),
        ("s3:///x", "s3:///x"),
        ("s3://b/X.MOV", "s3://b/X.MOV"),
    ],
)
def test_folder_destination_gets_the_id_as_name(destination, uri):
    assert parse_destination(destination, "a/b c") == uri


NO_URI = "must be the URI of a file or folder"
NO_SCHEME = "no scheme.*s3://bucket/folder/.*file:///data/videos/"
NO_PATH = "not the absolute path.*three slashes: file:///data/videos/"
NO_FILE = "names no file.*'/' for a folder"
CUT_NAME = r"holds '\?' or '#'.*another name"
PARENT_FOLDER = r"holds '\.\.'.*the folder itself"


@pytest.mark.parametrize(
    ("destination", "problem"),
    [
        (None, NO_URI),
        (7, NO_URI),
        ("s3://b/a\nb", NO_URI),
        ("/videos/a.mp4", NO_SCHEME),
        ("videos/", NO_SCHEME),
        ("", NO_SCHEME),
        ("s3:bucket/", NO_SCHEME),
        ("://bucket/", NO_SCHEME),
        ("S3://bucket/", NO_SCHEME),
        ("ſ3://bucket/", NO_SCHEME),
        ("C:\\videos", NO_SCHEME),
        ("file://videos/a.mp4", NO_PATH),
        ("local://videos/", NO_PATH),
        ("s3://bucket", NO_FILE),
        ("s3://", NO_FILE),
        ("s3:///", NO_FILE),
        ("file:///", NO_FILE),
        ("s3://bucket/a?b.mp4", CUT_NAME),
        ("file:///videos/a#1/", CUT_NAME),
        ("file:///videos/../etc/a.mp4", PARENT_FOLDER),
        ("file:///videos/../", PARENT_FOLDER),
        ("s3://bucket/a/..", PARENT_FOLDER),
        ("s3://bucket/%2e%2E/a.mp4", PARENT_FOLDER),
        ("s3://bucket/a/..%2f..%2fb.mp4", PARENT_FOLDER),
        ("file:///videos/..\\a.mp4", PARENT_FOLDER),
    ],
)
def test_unusable_destination_is_refused_with_a_remedy(destination, problem):
    with pytest.raises(ManxueInputError, match=problem) as caught:
        parse_destination(destination, "v1")
    assert re.search(rf"\bdestination\b.*{re.escape(repr(destination))}", str(caught.value))


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("s3://b/a.mp4", True),
        ("s3://b/x/", False),
        ("s3://b/x/ ", False),
        ("s3://b/{{ ti.map_index }}.mp4", False),
        (object(), False),
    ],
)
def test_destination_of_one_file_is_recognized(destination, expected):
    assert names_one_file(destination) is expected


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("s3://films/", True),
        (" s3a://films/a.mp4", True),
        ("gs://films/{{ ds }}/", True),
        ("{{ params.folder }}", True),
        ("{{ params.scheme }}://films/", True),
        (object(), True),
        ("file:///films/", False),
        ("abfs://films/{{ ds }}/", False),
        ("sftp://host/films/", False),
    ],
)
def test_destination_on_a_store_without_a_console_is_recognized(destination, expected):
    assert may_have_web_page(destination) is expected
