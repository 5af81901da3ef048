"""NumPy references of special functions that NumPy lacks, with their coefficients as data for the targets.

The error function follows s_erf.c of Sun Microsystems' fdlibm (1993): on each of four intervals of |x| one rational
function, fitted so that its error stays below one unit in the last place of float64.
"""

from __future__ import annotations

import numpy as np

from graphc.op import Array

Coefficients = tuple[float, ...]  # of a polynomial, the constant term first

# erf(x) = x + x * P(x²)/Q(x²) for |x| < 0.84375
ERF_SMALL: tuple[Coefficients, Coefficients] = (
    (
        1.28379167095512558561e-01,
        -3.25042107247001499370e-01,
        -2.84817495755985104766e-02,
        -5.77027029648944159157e-03,
        -2.37630166566501626084e-05,
    ),
    (
        1.0,
        3.97917223959155352819e-01,
        6.50222499887672944485e-02,
        5.08130628187576562776e-03,
        1.32494738004321644526e-04,
        -3.96022827877536812320e-06,
    ),
)

# erf(x) = ERF_AT_ONE + P(x - 1)/Q(x - 1) for 0.84375 <= x < 1.25
ERF_AT_ONE = 8.45062911510467529297e-01
ERF_NEAR_ONE: tuple[Coefficients, Coefficients] = (
    (
        -2.36211856075265944077e-03,
        4.14856118683748331666e-01,
        -3.72207876035701323847e-01,
        3.18346619901161753674e-01,
        -1.10894694282396677476e-01,
        3.54783043256182359371e-02,
        -2.16637559486879084300e-03,
    ),
    (
        1.0,
        1.06420880400844228286e-01,
        5.40397917702171048937e-01,
        7.18286544141962662868e-02,
        1.26171219808761642112e-01,
        1.36370839120290507362e-02,
        1.19844998467991074170e-02,
    ),
)

# erf(x) = 1 - exp(-x² - 0.5625 + P(1/x²)/Q(1/x²)) / x for 1.25 <= x < 1/0.35
ERF_MIDDLE: tuple[Coefficients, Coefficients] = (
    (
        -9.86494403484714822705e-03,
        -6.93858572707181764372e-01,
        -1.05586262253232909814e01,
        -6.23753324503260060396e01,
        -1.62396669462573470355e02,
        -1.84605092906711035994e02,
        -8.12874355063065934246e01,
        -9.81432934416914548592e00,
    ),
    (
        1.0,
        1.96512716674392571292e01,
        1.37657754143519042600e02,
        4.34565877475229228821e02,
        6.45387271733267880336e02,
        4.29008140027567833386e02,
        1.08635005541779435134e02,
        6.57024977031928170135e00,
        -6.04244152148580987438e-02,
    ),
)

# the same form for 1/0.35 <= x < 6
ERF_LARGE: tuple[Coefficients, Coefficients] = (
    (
        -9.86494292470009928597e-03,
        -7.99283237680523006574e-01,
        -1.77579549177547519889e01,
        -1.60636384855821916062e02,
        -6.37566443368389627722e02,
        -1.02509513161107724954e03,
        -4.83519191608651397019e02,
    ),
    (
        1.0,
        3.03380607434824582924e01,
        3.25792512996573918826e02,
        1.53672958608443695994e03,
        3.19985821950859553908e03,
        2.55305040643316442583e03,
        4.74528541206955367215e02,
        -2.24409524465858183362e01,
    ),
)


def erf(x: Array) -> Array:
    """2/√π · ∫₀ˣ exp(-t²) dt, elementwise, computed in float64 with an error below 1 ulp."""
    wide = np.asarray(x, np.float64)
    size = np.abs(wide)
    result = np.where(np.isnan(size), np.nan, 1.0)  # what 1 - erf is below half an ulp, from 6 on
    branches = (
        (size < 0.84375, _small),
        ((size >= 0.84375) & (size < 1.25), _near_one),
        ((size >= 1.25) & (size < 1 / 0.35), lambda a: _tail(a, ERF_MIDDLE)),
        ((size >= 1 / 0.35) & (size < 6), lambda a: _tail(a, ERF_LARGE)),
    )
    for mask, branch in branches:
        result[mask] = branch(size[mask])
    return np.asarray(np.copysign(result, wide).astype(x.dtype))


def _ratio(x: Array, fraction: tuple[Coefficients, Coefficients]) -> Array:
    numerator, denominator = (np.polynomial.polynomial.polyval(x, coefficients) for coefficients in fraction)
    return np.asarray(numerator / denominator)


def _small(a: Array) -> Array:
    return np.asarray(a + a * _ratio(a * a, ERF_SMALL))


def _near_one(a: Array) -> Array:
    return np.asarray(ERF_AT_ONE + _ratio(a - 1, ERF_NEAR_ONE))


def _tail(a: Array, fraction: tuple[Coefficients, Coefficients]) -> Array:
    """1 - erfc(a), with -a² split as -z² + (z - a)(z + a), where z is a in single precision and z² is exact."""
    z = a.astype(np.float32).astype(np.float64)
    exponent = (z - a) * (z + a) + _ratio(1 / (a * a), fraction)
    return np.asarray(1 - np.exp(-z * z - 0.5625) * np.exp(exponent) / a)
