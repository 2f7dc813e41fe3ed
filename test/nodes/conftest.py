"""The graph of one test."""

from collections.abc import Iterator

import pytest
from ros_graph import Graph


@pytest.fixture
def graph(ros_domain: int) -> Iterator[Graph]:
    """A fresh graph on a domain of its own."""
    made = Graph(ros_domain)
    yield made
    made.close()
