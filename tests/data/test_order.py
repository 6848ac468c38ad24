"""Orders: every epoch a permutation, a pure function of (seed, place), balanced where asked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data.order import BalancedOrder, Order


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 200), st.integers(0, 100))
@settings(deadline=None, max_examples=60)
def test_any_part_of_the_series_is_the_same_however_it_is_asked_for(n, seed, start, size):
    whole = Order(n, seed).records(0, start + size)
    part = Order(n, seed).records(start, size)
    assert torch.equal(part, whole[start:])
    for epoch in range((start + size) // n):
        assert torch.equal(whole[epoch * n : (epoch + 1) * n].sort().values, torch.arange(n))


def test_epochs_and_seeds_differ():
    first, second = Order(100, 0).records(0, 200).split(100)
    assert not torch.equal(first, second)
    assert not torch.equal(first, Order(100, 1).records(0, 100))


def test_going_back_gives_the_same_again():
    order = Order(7, 3)
    before = order.records(0, 7)
    order.records(70, 14)
    assert torch.equal(order.records(0, 7), before)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 3), st.integers(0, 60), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_balanced_classes_take_turns(labels, seed, start, size):
    labels = torch.tensor(labels)
    whole = BalancedOrder(labels, seed).records(0, start + size)
    assert torch.equal(BalancedOrder(labels, seed).records(start, size), whole[start:])
    classes = len(labels.unique())
    for one_round in labels[whole].split(classes):
        assert len(one_round.unique()) == len(one_round)
    for label in labels.unique():  # a class's own records come round as in an epoch of their own
        drawn = whole[labels[whole] == label]
        own = (labels == label).nonzero().flatten()
        for epoch in drawn.split(len(own)):
            assert len(epoch.unique()) == len(epoch)


def test_nothing_cannot_be_ordered():
    with pytest.raises(ValueError, match="n is 0; there must be at least 1 record"):
        Order(0, 0)
