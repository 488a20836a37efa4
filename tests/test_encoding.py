from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmask_sk._encoding import decode, encode

KEYS = st.one_of(st.text(max_size=5), st.integers(-5, 5), st.just("$"))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
    max_leaves=8,
)


def through_json(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value, "value"), allow_nan=False)))


@given(VALUES)
def test_plain_values_come_back_the_same(value: Any) -> None:
    back = through_json(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, 0.1])
def test_floats_come_back_to_the_bit(number: float) -> None:
    assert np.float64(through_json(number)).tobytes() == np.float64(number).tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.5, np.nan, np.inf], dtype=np.float32),
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.array(["a", "bcd"]),
        np.array(["a", None, 3], dtype=object),
        np.array([True, False]),
        np.zeros((0, 4)),
        np.array(2.5),
    ],
)
def test_arrays_keep_type_shape_and_bits(array: np.ndarray) -> None:
    back = through_json(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    if array.dtype == object:
        assert back.tolist() == array.tolist()
    else:
        assert back.tobytes() == array.tobytes()


def test_scalars_slices_paths_and_tables() -> None:
    assert isinstance(through_json(np.float32(0.1)), np.float32)
    assert through_json(np.float32(0.1)) == np.float32(0.1)
    assert through_json(slice(3, 7)) == slice(3, 7)
    assert through_json(Path("a") / "b") == "a/b"
    table = pd.DataFrame({"epoch": [1, 2], "loss": [np.nan, 0.5]}, index=[3, 4])
    pd.testing.assert_frame_equal(through_json(table), table)


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: 0, b"bytes", 1j, np.array([1j])])
def test_other_kinds_are_refused_with_the_place(value: Any) -> None:
    with pytest.raises(TypeError, match=r"Model\(odd=\.\.\.\) is .* cannot hold"):
        encode([value], "Model(odd=...)")


def test_a_random_state_and_a_class_name_their_remedy() -> None:
    with pytest.raises(TypeError, match="Set an integer random_state"):
        encode(np.random.RandomState(0), "random_state")
    with pytest.raises(TypeError, match=r"short name.*joblib"):
        encode(dict, "backbone")


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown kind of value 'code'"):
        decode({"$": "code", "value": "print()"})
