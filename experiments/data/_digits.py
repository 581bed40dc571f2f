"""The handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels."""

import numpy as np

from ._dataset import Split, hold_out, make_split

_TEST_EXAMPLES = 360
# The test split is part of what "digits" means here and so has a seed of its own: results of
# different seeds are measured on the same images.
_TEST_SEED = 0


def read_digits() -> tuple[Split, Split]:
    """Read the digits.

    scikit-learn gives values v in 0..16. They become uint8 by (255 v + 8) // 16, that is, v / 16 of
    the full range rounded to the nearest integer: 0 -> 0, 8 -> 128, 16 -> 255.

    Returns:
        (1,437 training examples, 360 test examples): the set has no split of its own, and this one
        is fixed.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    pixels, label = load_digits(return_X_y=True)
    image = (np.asarray(pixels, np.int32).reshape(-1, 8, 8, 1) * 255 + 8) // 16
    whole = make_split(image.astype(np.uint8), np.asarray(label))
    return hold_out(whole, _TEST_EXAMPLES, _TEST_SEED)
