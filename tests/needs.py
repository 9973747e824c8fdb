"""What tests need of the machine."""

import os

import pytest


def need(condition: bool, reason: str) -> None:
    """Skip, or fail where `make test` promised that everything is there."""
    if not condition:
        if os.environ.get("COMPINV_REQUIRE_HOST"):
            pytest.fail(reason)
        pytest.skip(reason)
