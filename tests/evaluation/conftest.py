"""The smallest protocol."""

import pytest
from evaluation_files import small_protocol

from pavdit.evaluation.protocol import load_protocol


@pytest.fixture(scope="session")
def rules(tmp_path_factory):
    return load_protocol(str(small_protocol(tmp_path_factory.mktemp("protocol"))))[0]
