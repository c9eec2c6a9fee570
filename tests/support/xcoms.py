"""Double of a task instance for operators that only push XComs."""

from __future__ import annotations


class XComRecorder:
    """Task instance that records pushed XComs by key."""

    def __init__(self):
        self.xcom = {}

    def xcom_push(self, key, value):
        self.xcom[key] = value
