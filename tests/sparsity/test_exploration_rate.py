import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stugan_tf.sparsity.exploration_rate import churn, exploration_rate

masks = arrays(np.float32, (4, 5), elements=st.sampled_from([0.0, 1.0]), fill=st.nothing())


def test_exploration_rate_by_hand():
    per_layer, total = exploration_rate([tf.constant([1.0, 0.0]), tf.ones([2, 3])])
    assert per_layer.numpy().tolist() == [0.5, 1.0]
    assert total == 7 / 8


def test_churn_by_hand():
    old, new = tf.constant([1.0, 1.0, 1.0, 1.0, 0.0]), tf.constant([1.0, 1.0, 1.0, 0.0, 1.0])
    assert churn(old, new) == 0.25
    assert churn(old, old) == 0
    assert churn(old, tf.zeros(5)) == 0


@given(masks=st.lists(masks, min_size=1, max_size=4))
def test_exploration_rate_is_the_size_of_the_union(masks):
    ever_active = tf.zeros([4, 5])
    for mask in masks:
        ever_active = tf.maximum(ever_active, mask)
    union = set().union(*(np.flatnonzero(mask) for mask in masks))
    per_layer, total = exploration_rate([ever_active])
    assert per_layer[0] == total == len(union) / 20


@given(old=masks, new=masks)
def test_churn_is_the_share_of_newcomers(old, new):
    active = set(np.flatnonzero(new))
    expected = len(active - set(np.flatnonzero(old))) / max(len(active), 1)
    assert churn(old, new) == expected
