"""The random generator: published vectors, fixed values, ranges, and the laws that draws follow."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc import philox
from graphc.errors import ArgumentError, DTypeError

STREAM = philox.stream_key("dropout")
FULL = (1 << 64) - 1

# Counter words, key words and result of philox4x32-10, from the known-answer file of Random123.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

# One draw of each kind, as a function of (counter, shape, start).
DRAWS = {
    "bits32": lambda c, shape, start: philox.bits32(3, STREAM, c, math.prod(shape), start=start).reshape(
        shape
    ),
    "bits64": lambda c, shape, start: philox.bits64(3, STREAM, c, math.prod(shape), start=start).reshape(
        shape
    ),
    "bernoulli": lambda c, shape, start: philox.bernoulli(3, STREAM, c, shape, 0.3, start=start),
    "integers": lambda c, shape, start: philox.integers(3, STREAM, c, shape, -5, 1000, start=start),
} | {
    f"{draw.__name__} {dtype}": lambda c, shape, start, draw=draw, dtype=dtype: draw(
        3, STREAM, c, shape, dtype, start=start
    )
    for draw in (philox.uniform, philox.normal)
    for dtype in ("float16", "bfloat16", "float32", "float64")
}


@pytest.fixture(params=DRAWS)
def draw(request):
    return DRAWS[request.param]


def largest_gap(values, cdf):
    """Kolmogorov and Smirnov's distance between the sample and a distribution."""
    expected, n = cdf(np.sort(values)), len(values)
    return max(np.max(np.arange(1, n + 1) / n - expected), np.max(expected - np.arange(n) / n))


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_published_vectors(counter, key, expected):
    words = philox.philox4x32(tuple(np.array([word], np.uint64) for word in counter), key[0] | key[1] << 32)
    assert tuple(int(word[0]) for word in words) == expected


def test_word_i_is_a_word_of_block_i_div_4():
    counter, start = 5 << 32 | 7, (3 << 34) + 2
    blocks = [np.array([word], np.uint64) for word in (0, 3, 7, 5)]
    expected = np.concatenate(philox.philox4x32(tuple(blocks), philox.mix(11, STREAM))).astype(np.uint32)
    assert np.array_equal(philox.bits32(11, STREAM, counter, 2, start=start), expected[2:])


def test_first_values_never_change():
    assert STREAM == 10899584076077068586
    assert philox.mix(0, 0) == 12035550249420947055
    assert philox.bits32(0, STREAM, 0, 4).tolist() == [0x4C44BC8C, 0xACFC0C04, 0x0E330530, 0xAD9DD8EF]
    assert philox.uniform(0, STREAM, 0, (2,)).tolist() == [0.2979238033294678, 0.6757209300994873]
    assert philox.uniform(0, STREAM, 0, (2,), "float64").tolist() == [0.6757209311001756, 0.6781898101455219]
    assert philox.integers(0, STREAM, 0, (8,), -3, 7).tolist() == [3, 3, 4, -2, 0, 3, 0, 0]
    assert philox.bernoulli(0, STREAM, 0, (4,), 0.5).tolist() == [True, False, True, False]
    assert philox.permutation(0, STREAM, 0, 8).tolist() == [3, 6, 7, 4, 0, 1, 5, 2]
    normals = philox.normal(0, STREAM, 0, (3,), "float64")
    assert np.allclose(normals, [-0.6543986708847583, -1.350579134981361, 0.8016806769772884], rtol=1e-14)


def test_other_seeds_streams_and_counters_give_other_bits():
    values = (0, 1, 2, 1 << 32, FULL)
    rows = {
        philox.bits32(seed, stream, counter, 4).tobytes()
        for seed in values
        for stream in values
        for counter in values
    }
    assert len(rows) == len(values) ** 3


@given(st.integers(0, FULL), st.integers(0, FULL), st.integers(0, FULL))
def test_mixing_keeps_keys_apart(a, b, c):
    assert (philox.mix(a, b) == philox.mix(a, c)) == (b == c)
    assert (philox.mix(b, a) == philox.mix(c, a)) == (b == c)
    assert 0 <= philox.mix(a, b) <= FULL


@given(st.sampled_from(sorted(DRAWS)), st.integers(0, 70), st.integers(0, 70))
def test_a_block_drawn_alone_equals_its_part_of_the_whole(name, start, count):
    whole = DRAWS[name](9, (start + count,), 0)
    assert DRAWS[name](9, (count,), start).tobytes() == whole[start:].tobytes()


def test_draws_longer_than_a_chunk_go_on_without_a_seam(draw):
    seam = 4 * philox._CHUNK
    whole = draw(1, (seam + 100,), 0)
    assert whole[seam - 5 : seam + 5].tobytes() == draw(1, (10,), seam - 5).tobytes()


def test_draws_have_the_shape_asked_for_in_row_order(draw):
    assert draw(0, (), 0).shape == ()
    assert draw(0, (3, 0, 2), 0).shape == (3, 0, 2)
    assert draw(0, (2, 3, 4), 0).tobytes() == draw(0, (24,), 0).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (2, 2.5), (-3e4, 3e4), (1, 1.0078125)])
def test_uniforms_stay_below_their_upper_bound(dtype, low, high):
    values = philox.uniform(1, STREAM, 0, (100_000,), dtype, low, high)
    assert values.dtype == np.dtype(dtype)
    assert values.min() >= values.dtype.type(low)
    assert values.max() < values.dtype.type(high)


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 24), ("float64", 53)])
def test_uniforms_are_whole_multiples_of_their_step(dtype, bits):
    steps = philox.uniform(1, STREAM, 0, (10_000,), dtype).astype(np.float64) * 2.0**bits
    assert np.array_equal(steps, np.floor(steps))
    assert np.any(steps % 2 == 1)


def test_uniforms_are_uniform():
    for dtype in ("float32", "float64"):
        values = philox.uniform(1, STREAM, 0, (100_000,), dtype).astype(np.float64)
        assert abs(values.mean() - 1 / 2) < 0.004
        assert abs(values.var() - 1 / 12) < 0.001
        assert largest_gap(values, lambda x: x) < 1.95 / math.sqrt(len(values))


def test_neighbours_seeds_and_counters_are_uncorrelated():
    first = philox.uniform(1, STREAM, 0, (100_000,), "float64") - 0.5
    others = [
        np.roll(first, 1),
        philox.uniform(2, STREAM, 0, (100_000,), "float64") - 0.5,
        philox.uniform(1, STREAM, 1, (100_000,), "float64") - 0.5,
        philox.uniform(1, STREAM + 1, 0, (100_000,), "float64") - 0.5,
    ]
    assert all(abs(np.mean(first * other)) * 12 < 0.015 for other in others)


def test_normals_are_normal():
    cdf = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))
    for dtype in ("float32", "float64"):
        values = philox.normal(1, STREAM, 0, (50_000,), dtype).astype(np.float64)
        assert abs(values.mean()) < 0.02
        assert abs(values.var() - 1) < 0.03
        assert abs(np.mean(values[0::2] * values[1::2])) < 0.025
        assert largest_gap(values, cdf) < 1.95 / math.sqrt(len(values))


def test_normals_are_shifted_and_scaled_before_they_are_rounded():
    z = philox.normal(1, STREAM, 0, (1000,), "float64")
    assert np.array_equal(philox.normal(1, STREAM, 0, (1000,), "float64", 3.0, 0.5), 3.0 + 0.5 * z)
    assert np.all(philox.normal(1, STREAM, 0, (5,), "float16", 2.0, 0.0) == 2)


def test_narrow_draws_are_rounded_wide_ones():
    wide = philox.normal(1, STREAM, 0, (1000,))
    for dtype in ("float16", "bfloat16"):
        narrow = philox.normal(1, STREAM, 0, (1000,), dtype)
        assert np.allclose(narrow.astype(np.float32), wide, rtol=2.0**-8, atol=2.0**-24)


def test_bernoulli_is_the_uniform_compared():
    uniform = philox.uniform(1, STREAM, 0, (10_000,))
    assert np.array_equal(philox.bernoulli(1, STREAM, 0, (10_000,), 0.3), uniform.astype(np.float64) < 0.3)
    assert abs(philox.bernoulli(1, STREAM, 0, (100_000,), 0.3).mean() - 0.3) < 0.006
    assert philox.bernoulli(1, STREAM, 0, (10_000,), 1).all()
    assert not philox.bernoulli(1, STREAM, 0, (10_000,), 0).any()


def test_bernoulli_takes_a_probability_for_each_element():
    flips = philox.bernoulli(1, STREAM, 0, (50_000, 3), [0.0, 0.5, 1.0])
    assert not flips[:, 0].any()
    assert abs(flips[:, 1].mean() - 0.5) < 0.01
    assert flips[:, 2].all()


def test_integers_fall_into_their_range_evenly():
    values = philox.integers(1, STREAM, 0, (70_000,), -3, 4)
    counts = np.bincount(values + 3)
    assert len(counts) == 7
    assert (
        np.sum((counts - 10_000) ** 2 / 10_000) < 22.5
    )  # chi-squared, 6 degrees of freedom: one in a thousand


@given(st.integers(0, FULL), st.integers(1, 1 << 64), st.integers(0, 1000))
def test_integers_are_the_high_half_of_the_product(seed, size, start):
    word = int(philox.bits64(seed, STREAM, 0, 1, start=start)[0])
    drawn = philox.integers(seed, STREAM, 0, (), 0, size, np.uint64, start=start)
    assert int(drawn) == word * size >> 64


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
def test_integers_span_a_whole_dtype(dtype):
    limits = np.iinfo(dtype)
    values = philox.integers(1, STREAM, 0, (5000,), limits.min, limits.max + 1, dtype)
    assert values.dtype == dtype
    quarter = (int(limits.max) - int(limits.min)) // 4
    assert int(values.min()) < limits.min + quarter
    assert int(values.max()) > limits.max - quarter


def test_permutations_hold_every_number_once():
    assert philox.permutation(0, STREAM, 0, 0).tolist() == []
    assert np.array_equal(np.sort(philox.permutation(0, STREAM, 0, 1000)), np.arange(1000))
    assert not np.array_equal(philox.permutation(0, STREAM, 0, 1000), philox.permutation(0, STREAM, 1, 1000))


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda: philox.bits32(-1, 0, 0, 1), ArgumentError, "seed"),
        (lambda: philox.bits32(0, 1 << 64, 0, 1), ArgumentError, "stream"),
        (lambda: philox.bits32(0, 0, -1, 1), ArgumentError, "counter"),
        (lambda: philox.bits32(0, 0, 0, 1, start=-1), ArgumentError, "start"),
        (lambda: philox.bits32(0, 0, 0, -1), ArgumentError, "count"),
        (lambda: philox.uniform(0, 0, 0, (1,), "int32"), DTypeError, "got int32"),
        (lambda: philox.uniform(0, 0, 0, (1,), "float32", 1.0, 1.0), ArgumentError, "low < high"),
        (lambda: philox.uniform(0, 0, 0, (1,), "float32", 1.0, 1.0 + 1e-9), ArgumentError, "low < high"),
        (lambda: philox.uniform(0, 0, 0, (1,), "float32", -3e38, 3e38), ArgumentError, "infinitely apart"),
        (lambda: philox.uniform(0, 0, 0, (1,), "float32", math.nan, 1), ArgumentError, "nan"),
        (lambda: philox.normal(0, 0, 0, (1,), "float32", 0.0, -1.0), ArgumentError, "std"),
        (lambda: philox.normal(0, 0, 0, (1,), "complex64"), DTypeError, "complex64"),
        (lambda: philox.bernoulli(0, 0, 0, (1,), 1.5), ArgumentError, "1.5"),
        (lambda: philox.bernoulli(0, 0, 0, (1,), math.nan), ArgumentError, "nan"),
        (lambda: philox.integers(0, 0, 0, (1,), 3, 3), ArgumentError, "low < high"),
        (lambda: philox.integers(0, 0, 0, (1,), 0, 300, "uint8"), ArgumentError, "uint8"),
        (lambda: philox.integers(0, 0, 0, (1,), 0, 3, "float32"), DTypeError, "float32"),
    ],
)
def test_wrong_arguments_are_told(call, error, told):
    with pytest.raises(error, match=told):
        call()


def test_large_draws_of_threads_at_once_are_their_parts_put_together():
    count = 5 * philox._PART + 3
    with ThreadPoolExecutor(3) as threads:
        wholes = list(threads.map(lambda seed: philox.uniform(seed, STREAM, 0, (count,)), range(3)))
    for seed, whole in enumerate(wholes):
        starts = range(0, count, 49_999)
        parts = [philox.uniform(seed, STREAM, 0, (min(49_999, count - at),), start=at) for at in starts]
        assert np.array_equal(whole, np.concatenate(parts))
