"""The temporary folder of a test, in which a save must leave nothing."""

from __future__ import annotations

import contextlib

import pytest


@contextlib.contextmanager
def own_temporary_folder(folder):
    """Use a new folder as the temporary one, and check that nothing is left in it."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        yield
    assert list(folder.iterdir()) == []


@contextlib.contextmanager
def running_outside_of_tests(server, folder):
    """Run a server. Its temporary files are not in the folder of the first test, which must be empty afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        with server:
            patch.undo()
            yield server
