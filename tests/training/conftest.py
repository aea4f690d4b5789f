from pathlib import Path

import pytest
from small_runs import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of drawn scenes; `splits.json` lies beside it. Shared by all tests: leave it as it is."""
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes")
