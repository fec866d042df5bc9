"""What the training client makes of a server that is not there."""

import pytest

from cli.server import free_port
from cli.training_client import cancel_training, train
from weights.errors import OperationError


@pytest.mark.parametrize(
    "ask", [lambda url: train(url, {"videos": "data:,"}), lambda url: cancel_training(url, "any")]
)
def test_asking_nobody_is_an_error_that_names_the_address(ask):
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(OperationError, match=nobody):
        ask(nobody)
