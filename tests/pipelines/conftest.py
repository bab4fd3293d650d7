import pytest
import torch

from tests.pipelines.ranks import Ranks


@pytest.fixture(scope="package")
def two_ranks():
    """Two gloo processes."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture
def one_thread():
    """As many threads as each of the processes has, so that torch's own sums are theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
