"""Objectives of training runs."""

import pytest

from keras_vit.training import objectives

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize(
    "kind", [*objectives.OBJECTIVES.values(), *objectives.LABELS.values()]
)
def test_the_best_checkpoint_has_the_highest_score_or_the_lowest_error(kind):
    is_error = kind.watched.endswith(("loss", "error"))
    assert kind.better([0.2, 0.9]) == (0.2 if is_error else 0.9)
