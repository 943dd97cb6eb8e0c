from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from survcore.data.time_bins import TimeBins
from survcore.errors import DataError


def test_quantile_edges_are_those_of_pandas_qcut_on_events():
    generator = np.random.default_rng(3)
    time = generator.exponential(30, 300)
    event = (generator.random(300) < 0.4).astype(int)
    bins = TimeBins.uncensored_quantiles(time, event, 4)
    _, edges = pd.qcut(time[event == 1], q=4, retbins=True)
    np.testing.assert_allclose(bins.edges[1:-1], edges[1:-1], rtol=0, atol=0)
    assert bins.edges[0] == 0 and np.isinf(bins.edges[-1]) and len(bins) == 4
    counts = np.bincount(bins.index(time, event)[event == 1], minlength=4)
    assert counts.max() - counts.min() <= 1


def test_quantile_index_is_half_open_and_ignores_the_event():
    bins = TimeBins(np.array([0, 10, 20, np.inf]), "quantile")
    time = np.array([0.0, 9.999, 10.0, 19.0, 20.0, 500.0])
    for event in (np.zeros(6, int), np.ones(6, int)):
        np.testing.assert_array_equal(bins.index(time, event), [0, 0, 1, 1, 2, 2])
    assert bins.index(time, event).dtype == np.int64


def test_tied_quantiles_are_merged_with_a_warning():
    time = np.array([5.0] * 8 + [20.0, 30.0])
    with pytest.warns(UserWarning, match="2 time bins of the 4"):
        bins = TimeBins.uncensored_quantiles(time, np.ones(10, int), 4)
    np.testing.assert_array_equal(bins.edges, [0, 5, np.inf])


def test_equidistant_follows_the_right_and_left_cut_rule():
    bins = TimeBins.equidistant(30.0, 4)  # cuts 0, 10, 20, 30
    time = np.array([0.0, 0.5, 10.0, 10.1, 29.0, 30.0, 31.0])
    np.testing.assert_array_equal(bins.index(time, np.ones(7, int)), [0, 1, 1, 2, 3, 3, 3])
    np.testing.assert_array_equal(bins.index(time, np.zeros(7, int)), [0, 0, 1, 1, 2, 3, 3])
    np.testing.assert_array_equal(bins.edges, [0, 0, 10, 20, 30])
    assert len(bins) == 4


def test_competing_events_count_as_events():
    bins = TimeBins.equidistant(30.0, 4)
    np.testing.assert_array_equal(bins.index(np.array([5.0, 5.0, 5.0]), np.array([0, 1, 2])), [0, 1, 1])
    edges = TimeBins.uncensored_quantiles(np.arange(1.0, 9.0), np.array([1, 2] * 4), 2).edges
    np.testing.assert_array_equal(edges, [0, 4.5, np.inf])


@pytest.mark.parametrize(
    "bins", [TimeBins.uncensored_quantiles(np.arange(1, 99) / 7, np.ones(98), 4), TimeBins.equidistant(100 / 3, 20)]
)
def test_state_round_trips_exactly_through_json(bins):
    again = TimeBins.from_state(json.loads(json.dumps(bins.state(), allow_nan=False)))
    np.testing.assert_array_equal(again.edges, bins.edges)
    assert again.rule == bins.rule


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [
        ([1.0, 2.0], [0, 0], "none of the 2 rows has an event"),
        ([3.0, 3.0], [1, 1], "different times"),
        ([1.0, -2.0], [1, 1], "-2.0 at row 1"),
        ([np.nan, 2.0], [1, 1], "nan at row 0"),
        ([1.0, 2.0], [1], "one length"),
    ],
)
def test_bad_input_is_named(time, event, message):
    with pytest.raises(DataError, match=message):
        TimeBins.uncensored_quantiles(np.array(time), np.array(event), 4)


def test_bad_definitions_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        TimeBins.uncensored_quantiles(np.arange(5.0), np.ones(5), 0)
    with pytest.raises(DataError, match="positive"):
        TimeBins.equidistant(0.0, 4)
    with pytest.raises(ValueError, match="first of them 0"):
        TimeBins(np.array([1.0, 2.0]), "quantile")
    with pytest.raises(ValueError, match="ascend"):
        TimeBins(np.array([0.0, 2.0, 2.0]), "quantile")
    with pytest.raises(ValueError, match="quantile, equidistant"):
        TimeBins(np.array([0.0, 2.0]), "uniform")
