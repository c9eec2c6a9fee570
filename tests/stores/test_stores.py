"""
Saves to Azure, Google Cloud, SFTP and WebHDFS, with the client libraries that a task uses.

The servers are Azurite, fake-gcs-server, asyncssh, and a WebHDFS server of our own, see ``tests/stores/servers.py``.
"""

import contextlib
import hashlib

import pytest

from airflow_provider_manxue.exceptions import ManxueError, ManxueExistsError, ManxueStorageError
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator
from tests.support.fake_airflow import FakeTaskInstance

SIZE = 200_000
OLD = b"an older video"
NAME = "shot.mp4"
MANY = ["overwrite", "skip", "fail"]


def only(*schemes):
    return pytest.mark.parametrize("store", schemes, indirect=True)


class Saves:
    """A save of one video, with checks of its result."""

    def __init__(self, emulator, store):
        self.emulator, self.store = emulator, store
        self.ti = FakeTaskInstance()
        self.new_video()

    def new_video(self, size=SIZE):
        self.task_id = self.emulator.add_task("completed", size=size)
        self.video = self.emulator.task(self.task_id).video.read(0, size)

    def run(self, if_exists="overwrite", name=NAME):
        return ManxueToObjectStorageOperator(
            task_id="save",
            video_task_id=self.task_id,
            destination=self.store.uri(name),
            storage_conn_id=self.store.conn_id,
            if_exists=if_exists,
        ).execute({"ti": self.ti})

    def assert_stored(self, name=NAME, others=()):
        """Check that the video is in the store, and nothing else."""
        assert self.store.content(name) == self.video
        assert sorted(self.store.names()) == sorted([name, *others])

    def assert_saved(self, if_exists="overwrite", name=NAME, others=()):
        assert self.run(if_exists, name) == self.store.uri(name)
        self.assert_stored(name, others)
        facts = {
            "size": len(self.video),
            "sha256": hashlib.sha256(self.video).hexdigest(),
            "video_task_id": self.task_id,
        }
        assert self.ti.xcom.pop("saved_video").items() > {**facts, "uri": self.store.uri(name)}.items()
        assert self.ti.xcom == {
            **facts,
            "content_type": "video/mp4",
            **{key: value for key, value in self.ti.xcom.items() if key == "web_address"},
        }

    def assert_fails(self, error=ManxueStorageError, match=None, if_exists="overwrite", before=None):
        with pytest.raises(error, match=match):
            self.run(if_exists)
        assert self.ti.xcom == {}
        assert self.store.content(NAME) == before
        assert self.store.names() == ([] if before is None else [NAME])


@pytest.fixture
def saves(emulator, store):
    return Saves(emulator, store)


@pytest.mark.parametrize("if_exists", MANY)
def test_video_is_saved(saves, if_exists):
    saves.assert_saved(if_exists)
    if saves.store.media_types:
        assert saves.store.media_type(NAME) == "video/mp4"


@pytest.mark.parametrize("name", ["[2024]", "a*", "{b}", "100% é"])
def test_special_characters_in_a_name_are_literal(saves, name):
    """By default, fsspec expands such names as patterns when it moves a file."""
    saves.assert_saved(name=f"{name}/{NAME}")


class TestLargeVideo:
    """Each library sends a video of this size in several requests."""

    @only("gs", "sftp", "webhdfs")
    @pytest.mark.parametrize("if_exists", ["overwrite", "fail"])
    def test_video_is_saved_in_blocks(self, saves, if_exists):
        saves.new_video(20 * 2**20)
        saves.assert_saved(if_exists)
        if saves.store.media_types:
            assert saves.store.media_type(NAME) == "video/mp4"

    @only("abfs")
    def test_azure_commits_a_list_of_blocks(self, saves):
        """The library of Azure sends up to 64 MiB in one request."""
        saves.new_video(70 * 2**20)
        saves.assert_saved("fail")
        requested = [one.query.get("comp") for one in saves.store.proxy.requests if one.method == "PUT"]

        assert requested == ["block"] * 18 + ["blocklist"]
        assert saves.store.media_type(NAME) == "video/mp4"

    @only("abfs", "gs")
    @pytest.mark.parametrize("if_exists", ["skip", "fail"])
    def test_faster_task_is_not_replaced(self, saves, if_exists):
        saves.new_video((70 if saves.store.scheme == "abfs" else 20) * 2**20)
        saves.store.break_final_step(before=lambda: saves.store.write(NAME, OLD))
        if if_exists == "fail":
            saves.assert_fails(ManxueExistsError, if_exists=if_exists, before=OLD)
        else:
            saves.run(if_exists)
            assert (saves.store.content(NAME), saves.ti.xcom["sha256"]) == (OLD, None)

    def test_failed_final_step_leaves_older_video(self, saves):
        saves.new_video((70 if saves.store.scheme == "abfs" else 20) * 2**20)
        saves.store.write(NAME, OLD)
        saves.store.break_final_step("error")
        saves.assert_fails(before=OLD)

    @only("abfs", "gs")
    def test_own_object_is_recognized_after_a_lost_response(self, saves):
        saves.new_video((70 if saves.store.scheme == "abfs" else 20) * 2**20)
        saves.store.break_final_step("lost response", times=1)
        saves.assert_saved("fail")


class TestExistingObject:
    def test_fail_refuses_an_existing_object(self, saves):
        """The task must not change an object that it did not write."""
        saves.store.write(NAME, OLD)
        saves.assert_fails(ManxueExistsError, "already exists", "fail", before=OLD)

    def test_skip_leaves_an_existing_object(self, saves):
        saves.store.write(NAME, OLD)
        saves.run("skip")
        assert (saves.store.content(NAME), saves.ti.xcom["size"]) == (OLD, len(OLD))
        assert saves.ti.xcom["sha256"] is None

    @only("abfs", "gs", "sftp")
    @pytest.mark.parametrize("old", [OLD, b""])
    def test_overwrite_replaces_an_existing_object(self, saves, old):
        saves.store.write(NAME, old)
        saves.assert_saved()
        if saves.store.media_types:
            assert saves.store.media_type(NAME) == "video/mp4"

    @only("webhdfs")
    def test_webhdfs_refuses_to_replace_an_object(self, saves):
        """RENAME responds with status 200, and does nothing."""
        saves.store.write(NAME, OLD)
        saves.assert_fails(match="reported success, but holds a file of 14 bytes", before=OLD)

    @only("abfs", "gs", "sftp")
    def test_skip_replaces_an_empty_object(self, saves):
        saves.store.write(NAME, b"")
        saves.assert_saved("skip")


class TestFasterTask:
    """Another task stores its object between the last check of this task and its final step."""

    @pytest.fixture(autouse=True)
    def _faster_task(self, saves):
        saves.store.break_final_step(before=lambda: saves.store.write(NAME, OLD))

    @only("abfs", "gs")
    def test_fail_does_not_replace_the_faster_video(self, saves):
        saves.assert_fails(ManxueExistsError, if_exists="fail", before=OLD)

    @only("abfs", "gs")
    def test_skip_does_not_replace_the_faster_video(self, saves):
        saves.run("skip")
        assert (saves.store.content(NAME), saves.store.names()) == (OLD, [NAME])
        assert (saves.ti.xcom["size"], saves.ti.xcom["sha256"]) == (len(OLD), None)

    @only("abfs", "gs", "sftp")
    def test_overwrite_replaces_the_faster_video(self, saves):
        saves.assert_saved()

    @only("sftp")
    @pytest.mark.parametrize("if_exists", ["skip", "fail"])
    def test_sftp_replaces_the_faster_video(self, saves, if_exists):
        saves.assert_saved(if_exists)

    @only("webhdfs")
    @pytest.mark.parametrize("if_exists", MANY)
    def test_webhdfs_does_not_replace_the_faster_video(self, saves, if_exists):
        saves.assert_fails(match="reported success, but holds a file", if_exists=if_exists, before=OLD)


class TestFolder:
    @pytest.mark.parametrize("if_exists", MANY)
    def test_folder_is_refused_and_prefix_is_no_file(self, saves, if_exists):
        inside = f"{NAME}/readme.txt"
        saves.store.write(inside, OLD)
        if saves.store.create_only:
            saves.assert_saved(if_exists, others=[inside])
            return
        with pytest.raises(ManxueStorageError, match="end the destination with a slash"):
            saves.run(if_exists)
        assert saves.store.names() == [inside]
        assert [one for one in saves.emulator.requests if one.place == "media"] == []

    @only("sftp", "webhdfs")
    def test_folder_made_before_the_final_step_is_an_error(self, saves):
        """WebHDFS then moves the file into the folder."""
        inside = f"{NAME}/readme.txt"
        saves.store.break_final_step(before=lambda: saves.store.write(inside, OLD))
        with pytest.raises(ManxueStorageError):
            saves.run()
        assert saves.ti.xcom == {}
        assert saves.store.names() == [inside]


class TestFinalStep:
    @pytest.mark.parametrize("if_exists", MANY)
    def test_error_leaves_nothing(self, saves, if_exists):
        saves.store.break_final_step("error")
        saves.assert_fails(if_exists=if_exists)

    def test_error_leaves_older_video(self, saves):
        saves.store.write(NAME, OLD)
        saves.store.break_final_step("error")
        saves.assert_fails(before=OLD)

    @only("abfs", "gs")
    @pytest.mark.parametrize("fault", ["error", "no server", "lost response"])
    @pytest.mark.parametrize("if_exists", MANY)
    def test_single_fault_is_retried_by_the_library(self, saves, fault, if_exists):
        """After a lost response, the second conditional write is refused because of the first one."""
        saves.store.break_final_step(fault, times=1)
        saves.assert_saved(if_exists)

    @pytest.mark.parametrize("before", [None, OLD])
    def test_server_that_went_away_is_an_error(self, saves, before):
        if before is not None:
            saves.store.write(NAME, before)
        saves.store.break_final_step("no server")
        with pytest.raises(ManxueStorageError):
            saves.run()
        assert saves.ti.xcom == {}
        assert saves.store.content(NAME) == before

    def test_lost_response_is_success_only_with_the_whole_video(self, saves):
        saves.store.break_final_step("lost response")
        with contextlib.suppress(ManxueError):
            saves.run()
        saves.assert_stored()

    @only("sftp", "webhdfs")
    def test_lost_response_is_an_error_where_nothing_marks_the_file(self, saves):
        saves.store.break_final_step("lost response")
        with pytest.raises(ManxueStorageError):
            saves.run("fail")
        saves.assert_stored()
        saves.store.attach()
        saves.run("skip")

        assert saves.ti.xcom["size"] == SIZE


@only("abfs", "gs")
class TestDeniedReading:
    """Credentials that may only create objects."""

    @pytest.mark.parametrize("if_exists", MANY)
    def test_video_is_saved_with_a_warning(self, saves, if_exists, caplog):
        saves.store.deny_reading()
        saves.run(if_exists)
        saves.assert_stored()

        assert "denied permission to verify it" in caplog.text

    def test_fail_does_not_replace_an_object(self, saves):
        saves.store.write(NAME, OLD)
        saves.store.deny_reading()
        with pytest.raises(ManxueStorageError):
            saves.run("fail")
        assert saves.store.content(NAME) == OLD
