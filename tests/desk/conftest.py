"""A person before the desk that a test's `desk` serves."""

import pytest

from cdtl_core.desk.desk import Desk
from tests.desk.person import Person


@pytest.fixture
def person(desk: Desk) -> Person:
    found = Person(desk.port)
    assert found.open(desk.link()).status_code == 200
    return found
